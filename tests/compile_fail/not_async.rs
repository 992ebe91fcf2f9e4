use redrive::{Failure, extract::Text, handler::Router};

fn charge(_order: Text) -> Result<(), Failure> {
    Ok(())
}

fn main() {
    let _: Router = Router::new().route("order", charge);
}
