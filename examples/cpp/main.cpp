// Gets a task: `taskgate-example get HOST:PORT TASK_ID`, with the token and the authority that variables name.
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

#include <google/protobuf/struct.pb.h>
#include <google/protobuf/util/json_util.h>
#include <grpcpp/grpcpp.h>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "taskgate/v1/error_reason.pb.h"
#include "taskgate/v1/task_service.grpc.pb.h"

namespace {

constexpr auto kRetries = R"({"methodConfig": [{
  "name": [{"service": "taskgate.v1.TaskService"}],
  "retryPolicy": {
    "maxAttempts": 4, "initialBackoff": "0.1s", "maxBackoff": "1s", "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"]
  }
}]})";

std::string Variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

std::string ReadFile(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot read " + path.string());
  return {std::istreambuf_iterator<char>(file), {}};
}

std::string ToJson(const google::protobuf::Message& message) {
  std::string json;
  const auto status = google::protobuf::util::MessageToJsonString(message, &json);
  if (!status.ok()) throw std::runtime_error(status.ToString());
  return json;
}

google::protobuf::Value Text(const std::string& text) {
  google::protobuf::Value value;
  value.set_string_value(text);
  return value;
}

// Returns taskgate's reason for an error, or "" if it has none.
std::string ReasonOf(const grpc::Status& error) {
  google::rpc::Status details;
  if (!details.ParseFromString(error.error_details())) return "";
  for (const auto& detail : details.details()) {
    google::rpc::ErrorInfo info;
    if (detail.UnpackTo(&info) && info.domain() == "taskgate") return info.reason();
  }
  return "";
}

bool MayPass(const std::string& name) {
  taskgate::v1::ErrorReason reason;
  if (!taskgate::v1::ErrorReason_Parse(name, &reason)) return false;
  switch (reason) {
    case taskgate::v1::ERROR_REASON_STORE_UNAVAILABLE:
    case taskgate::v1::ERROR_REASON_OVERLOADED:
    case taskgate::v1::ERROR_REASON_RATE_LIMITED:
    case taskgate::v1::ERROR_REASON_TOO_MANY_ATTEMPTS:
    case taskgate::v1::ERROR_REASON_DEADLINE_EXCEEDED:
      return true;
    default:
      return false;
  }
}

// Says what happened, by the reason in the error's details, and returns an exit code: 75 for an error that may pass.
int Explain(const grpc::Status& error, const std::string& task_id) {
  const auto reason = ReasonOf(error);
  std::string later;
  if (error.error_code() == grpc::StatusCode::NOT_FOUND) {
    std::cerr << "There is no task " << task_id << "\n";
    return 1;
  } else if (MayPass(reason)) {
    later = reason;
  } else if (error.error_code() == grpc::StatusCode::UNAVAILABLE) {  // no connection, or a proxy without a server
    later = "the server is unavailable: " + error.error_message();
  } else if (error.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED) {
    later = "no answer in time";  // the client's own deadline, which has no reason
  } else {
    const auto code = "code " + std::to_string(error.error_code());
    std::cerr << (reason.empty() ? code : reason) << ": " << error.error_message() << "\n";
    return 1;
  }
  std::cerr << "Try again later: " << later << "\n";
  return 75;
}

int Get(const std::string& target, const std::string& task_id) {
  auto credentials = grpc::InsecureChannelCredentials();
  if (const auto authority = Variable("TASKGATE_CA"); !authority.empty()) {
    credentials = grpc::SslCredentials({ReadFile(authority), "", ""});
  }
  grpc::ChannelArguments options;
  options.SetServiceConfigJSON(kRetries);
  options.SetMaxReceiveMessageSize(32 << 20);
  const auto channel = grpc::CreateCustomChannel(target, credentials, options);

  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
  if (const auto token = Variable("TASKGATE_TOKEN"); !token.empty()) {
    context.AddMetadata("authorization", "Bearer " + token);
  }
  taskgate::v1::GetTaskRequest request;
  request.set_task_id(task_id);
  taskgate::v1::GetTaskResponse answer;
  const auto status = taskgate::v1::TaskService::NewStub(channel)->GetTask(&context, request, &answer);
  if (!status.ok()) return Explain(status, task_id);

  google::protobuf::Struct output;
  output.mutable_fields()->swap(*answer.mutable_task()->mutable_output_data());
  const auto json = ToJson(output);  // throws: no line is printed then
  std::cout << taskgate::v1::Task::Status_Name(answer.task().status()) << "\n" << json << "\n";
  return 0;
}

// Prints a line of JSON for each answer that was saved to the folder.
void Read(const std::string& folder) {
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() != ".binpb") continue;
    taskgate::v1::GetTaskResponse answer;
    if (!answer.ParseFromString(ReadFile(entry.path()))) throw std::runtime_error("no task in " + entry.path().string());
    std::cout << R"({"name":)" << ToJson(Text(entry.path().stem().string()));
    try {
      std::cout << R"(,"task":)" + ToJson(answer.task()) << "}\n";
    } catch (const std::runtime_error& error) {  // libprotobuf 3.21 decodes deeper messages than it writes as JSON
      std::cout << R"(,"error":)" << ToJson(Text(error.what())) << "}\n";
    }
  }
}

}  // namespace

int main(int count, char** words) {
  const std::vector<std::string> arguments(words + 1, words + count);
  try {
    if (arguments.size() == 3 && arguments[0] == "get") return Get(arguments[1], arguments[2]);
    if (arguments.size() == 2 && arguments[0] == "read") {
      Read(arguments[1]);
      return 0;
    }
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
  std::cerr << "usage: taskgate-example get HOST:PORT TASK_ID | read FOLDER\n";
  return 2;
}
