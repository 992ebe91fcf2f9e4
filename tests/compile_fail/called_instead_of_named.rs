use redrive::{Failure, handler::Router};

async fn charge() -> Result<(), Failure> {
    Ok(())
}

fn main() {
    let _: Router = Router::new().route("order", charge());
}
