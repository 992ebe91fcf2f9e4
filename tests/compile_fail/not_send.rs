use std::rc::Rc;

use redrive::{Failure, extract::Text, handler::Router};

async fn charge(_order: Text) -> Result<(), Failure> {
    let local = Rc::new(7);
    std::future::ready(()).await;
    drop(local);
    Ok(())
}

fn main() {
    let _: Router = Router::new().route("order", charge);
}
