//! Gets a task: `taskgate-example get HOST:PORT TASK_ID`, with the token and the authority that variables name.

mod stubs;

use std::error::Error;
use std::ffi::OsString;
use std::process::ExitCode;
use std::{env, fs};

use prost::Message;
use stubs::taskgate::v1::task_service_client::TaskServiceClient;
use stubs::taskgate::v1::{ErrorReason, GetTaskRequest, GetTaskResponse, Task};
use tokio::time::{Duration, Instant, sleep, timeout_at};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig};
use tonic::{Code, Request, Status, TimeoutExpired};
use tonic_types::StatusExt;

const TIMEOUT: Duration = Duration::from_secs(10); // of all attempts together
const ATTEMPTS: u32 = 4;
const TRY_LATER: [ErrorReason; 5] = [
    ErrorReason::StoreUnavailable,
    ErrorReason::Overloaded,
    ErrorReason::RateLimited,
    ErrorReason::TooManyAttempts,
    ErrorReason::DeadlineExceeded,
];

/// Returns the value of a variable that is set and not empty.
fn variable(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

fn connect(target: &str) -> Result<TaskServiceClient<Channel>, Box<dyn Error>> {
    let endpoint = match variable("TASKGATE_CA") {
        Some(authority) => {
            let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(fs::read(authority)?));
            Channel::from_shared(format!("https://{target}"))?.tls_config(tls)?
        }
        None => Channel::from_shared(format!("http://{target}"))?,
    };
    Ok(TaskServiceClient::new(endpoint.connect_lazy()).max_decoding_message_size(32 << 20))
}

async fn get(client: &mut TaskServiceClient<Channel>, task_id: &str, deadline: Instant) -> Result<Task, Status> {
    let token = bearer()?;
    let mut attempt = 1;
    // tonic reads no service config, so the retries are here.
    loop {
        let mut request = Request::new(GetTaskRequest { task_id: task_id.into() });
        request.set_timeout(deadline.saturating_duration_since(Instant::now()));
        if let Some(token) = &token {
            request.metadata_mut().insert("authorization", token.clone());
        }
        match client.get_task(request).await {
            Err(error) if error.code() == Code::Unavailable && attempt < ATTEMPTS => {
                sleep(Duration::from_millis(50 << attempt)).await;
                attempt += 1;
            }
            answer => return Ok(answer?.into_inner().task.unwrap_or_default()),
        }
    }
}

/// Returns the header's value, if there is a token. It is sensitive: HTTP/2 may not keep it in its tables.
fn bearer() -> Result<Option<MetadataValue<Ascii>>, Status> {
    let Some(token) = variable("TASKGATE_TOKEN") else { return Ok(None) };
    let mut value: MetadataValue<Ascii> = format!("Bearer {}", token.to_string_lossy())
        .parse()
        .map_err(|_| Status::invalid_argument("TASKGATE_TOKEN is no token"))?;
    value.set_sensitive(true);
    Ok(Some(value))
}

/// Says what happened, by the reason in the error's details. The exit code is 75 for an error that may pass.
fn explain(error: &Status, task_id: &str) -> ExitCode {
    let reason = error.get_details_error_info().filter(|info| info.domain == "taskgate").map(|info| info.reason);
    let later = match (error.code(), reason) {
        (Code::NotFound, _) => {
            eprintln!("There is no task {task_id}");
            return ExitCode::FAILURE;
        }
        (_, Some(reason)) if ErrorReason::from_str_name(&reason).is_some_and(|one| TRY_LATER.contains(&one)) => reason,
        // No connection, or a proxy without a server: it has no reason. A source says more than the message.
        (Code::Unavailable, _) => match innermost(error) {
            Some(source) => format!("the server is unavailable: {source}"),
            None => format!("the server is unavailable: {}", error.message()),
        },
        (Code::DeadlineExceeded, _) => "no answer in time".into(), // the client's own, which has no reason
        // tonic's word for the same. A server's or a proxy's CANCELLED is another error.
        (Code::Cancelled, _) if innermost(error).is_some_and(|source| source.is::<TimeoutExpired>()) => {
            "no answer in time".into()
        }
        (code, reason) => {
            eprintln!("{}: {}", reason.unwrap_or_else(|| format!("{code:?}")), error.message());
            return ExitCode::FAILURE;
        }
    };
    eprintln!("Try again later: {later}");
    ExitCode::from(75)
}

/// Returns the last error in the chain of sources, if there is one.
fn innermost(error: &Status) -> Option<&(dyn Error + 'static)> {
    let mut last = error.source()?;
    while let Some(source) = last.source() {
        last = source;
    }
    Some(last)
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
            let deadline = Instant::now() + TIMEOUT;
            let answer = timeout_at(deadline, get(&mut client, task_id, deadline)).await;
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
