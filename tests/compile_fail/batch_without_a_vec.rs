use std::time::Duration;

use redrive::{Failure, extract::Text, handler::{BoxedHandler, batch}};

async fn store(_order: Text) -> Result<(), Failure> {
    Ok(())
}

fn main() {
    let _: BoxedHandler<()> = batch(10, Duration::ZERO, store);
}
