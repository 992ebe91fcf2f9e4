use std::time::Duration;

use redrive::{Failure, extract::Text, handler::{BoxedHandler, batch}};

fn store(orders: Vec<Text>) -> Vec<Result<(), Failure>> {
    orders.iter().map(|_| Ok(())).collect()
}

fn main() {
    let _: BoxedHandler<()> = batch(10, Duration::ZERO, store);
}
