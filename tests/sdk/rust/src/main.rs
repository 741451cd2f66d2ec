//! The released SDK: makes a client, then asks for each task that a line of standard input names. It prints a line of JSON for
//! each: what the SDK returned, or how it failed. The first line says that there is a client. The SDK's log goes to standard
//! error.

use std::env::args;
use std::io::{stderr, stdin};

use conductor::client::ConductorClient;
use conductor::configuration::Configuration;
use serde_json::json;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().with_writer(stderr).init();
    let [_, url, key_id, key_secret] = args().collect::<Vec<_>>().try_into().expect("an URL, a key and its secret");
    let mut configuration = Configuration::new(url);
    if !key_id.is_empty() {
        configuration = configuration.with_auth(key_id, key_secret);
    }
    let tasks = ConductorClient::new(configuration)?.task_client();
    println!("{{}}");
    for line in stdin().lines() {
        match tasks.get_task(&line?).await {
            Ok(task) => println!("{}", json!({ "task": task })),
            Err(error) => println!("{}", json!({ "error": error.to_string() })),
        }
    }
    Ok(())
}
