use redrive::{extract::Text, handler::Router};

async fn charge(_order: Text) -> u64 {
    7
}

fn main() {
    let _: Router = Router::new().route("order", charge);
}
