use std::time::Duration;

use redrive::{Failure, handler::{BoxedHandler, batch}};

struct Order;

async fn store(orders: Vec<Order>) -> Vec<Result<(), Failure>> {
    orders.iter().map(|_| Ok(())).collect()
}

fn main() {
    let _: BoxedHandler<()> = batch(10, Duration::ZERO, store);
}
