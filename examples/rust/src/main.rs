//! Gets a task: `taskgate-example get HOST:PORT TASK_ID`, with the token and the authority that variables name.

mod stubs;

use std::process::ExitCode;
use std::time::Duration;
use std::{env, error::Error, fs};

use prost::Message;
use stubs::taskgate::v1::task_service_client::TaskServiceClient;
use stubs::taskgate::v1::{ErrorReason, GetTaskRequest, GetTaskResponse, Task};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

const TIMEOUT: Duration = Duration::from_secs(10); // of all attempts together
const ATTEMPTS: u32 = 4;
const TRY_LATER: [ErrorReason; 3] =
    [ErrorReason::StoreUnavailable, ErrorReason::Overloaded, ErrorReason::DeadlineExceeded];

fn connect(target: &str) -> Result<TaskServiceClient<Channel>, Box<dyn Error>> {
    let endpoint = match env::var("TASKGATE_CA") {
        Ok(authority) => {
            let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(fs::read(authority)?));
            Channel::from_shared(format!("https://{target}"))?.tls_config(tls)?
        }
        Err(_) => Channel::from_shared(format!("http://{target}"))?,
    };
    Ok(TaskServiceClient::new(endpoint.connect_lazy()).max_decoding_message_size(32 << 20))
}

async fn get(client: &mut TaskServiceClient<Channel>, task_id: &str) -> Result<Task, Status> {
    let token = format!("Bearer {}", env::var("TASKGATE_TOKEN").unwrap_or_default());
    let token: MetadataValue<Ascii> = token.parse().map_err(|_| Status::invalid_argument("TASKGATE_TOKEN is not one"))?;
    // tonic reads no service config, so the retries are here.
    for attempt in 1.. {
        let mut request = Request::new(GetTaskRequest { task_id: task_id.into() });
        request.set_timeout(TIMEOUT);
        request.metadata_mut().insert("authorization", token.clone());
        match client.get_task(request).await {
            Err(error) if error.code() == Code::Unavailable && attempt < ATTEMPTS => {
                tokio::time::sleep(Duration::from_millis(50 << attempt)).await;
            }
            answer => return Ok(answer?.into_inner().task.unwrap_or_default()),
        }
    }
    unreachable!()
}

/// Says what happened, by the reason in the error's details. The exit code is 75 for an error that may pass.
fn explain(error: &Status, task_id: &str) -> ExitCode {
    let reason = error.get_details_error_info().map(|info| info.reason).unwrap_or_default();
    if error.code() == Code::NotFound {
        eprintln!("There is no task {task_id}");
    } else if TRY_LATER.iter().any(|one| one.as_str_name() == reason) {
        eprintln!("Try again later: {reason}");
        return ExitCode::from(75);
    } else if matches!(error.code(), Code::DeadlineExceeded | Code::Cancelled) {
        // The client's own deadline, which has no reason. tonic says Cancelled when the timeout of a request passes.
        eprintln!("Try again later: no answer in time");
        return ExitCode::from(75);
    } else {
        eprintln!("{:?} {reason}: {}", error.code(), error.message());
    }
    ExitCode::FAILURE
}

/// Prints a line of JSON for each answer that was saved to the folder.
fn read(folder: &str) -> Result<(), Box<dyn Error>> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "binpb") {
            let task = GetTaskResponse::decode(&*fs::read(&path)?)?.task;
            println!("{}", serde_json::json!({"name": path.file_stem().and_then(|name| name.to_str()), "task": task}));
        }
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["get", target, task_id] => {
            let mut client = connect(target)?;
            let answer = tokio::time::timeout(TIMEOUT, get(&mut client, task_id)).await;
            match answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time"))) {
                Ok(task) => {
                    println!("{}\n{}", task.status().as_str_name(), serde_json::to_string(&task.output_data)?);
                }
                Err(error) => return Ok(explain(&error, task_id)),
            }
        }
        ["read", folder] => read(folder)?,
        _ => {
            eprintln!("usage: taskgate-example get HOST:PORT TASK_ID | read FOLDER");
            return Ok(ExitCode::from(2));
        }
    }
    Ok(ExitCode::SUCCESS)
}
