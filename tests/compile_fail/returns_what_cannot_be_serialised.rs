use redrive::{Failure, extract::Text, handler::Router};

struct Receipt;

async fn charge(_order: Text) -> Result<Receipt, Failure> {
    Ok(Receipt)
}

fn main() {
    let _: Router = Router::new().route("order", charge);
}
