use redrive::{Failure, extract::State, handler::Router};

struct App;

async fn charge(State(_app): State<App>) -> Result<(), Failure> {
    Ok(())
}

fn main() {
    let _ = Router::<App>::new().route("order", charge);
}
