use redrive::{Failure, extract::State, handler::Router};

#[derive(Clone)]
struct Gateway;

#[derive(Clone)]
struct App;

async fn charge(State(_gateway): State<Gateway>) -> Result<(), Failure> {
    Ok(())
}

fn main() {
    let _ = Router::<App>::new().route("order", charge);
}
