use redrive::{Failure, extract::Attempt, handler::Router};

struct Order;

async fn charge(_: Attempt, _order: Order) -> Result<(), Failure> {
    Ok(())
}

fn main() {
    let _: Router = Router::new().route("order", charge);
}
