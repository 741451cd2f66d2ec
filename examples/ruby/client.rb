# frozen_string_literal: true

# Gets a task: `ruby client.rb get HOST:PORT TASK_ID`, with the token and the authority that variables name.

$LOAD_PATH.unshift(ENV.fetch("STUBS", File.expand_path("../../build/stubs/ruby", __dir__)))

require "google/protobuf/well_known_types" # lets code look into an Any
require "google/protobuf/wrappers_pb" # lets JSON show a StringValue that is in an Any
require "google/rpc/error_details_pb"
require "grpc"
require "json"
require "taskgate/v1/error_reason_pb"
require "taskgate/v1/task_service_services_pb"

RETRIES = {
  methodConfig: [{
    name: [{ service: "taskgate.v1.TaskService" }],
    retryPolicy: {
      maxAttempts: 4, initialBackoff: "0.1s", maxBackoff: "1s", backoffMultiplier: 2,
      retryableStatusCodes: ["UNAVAILABLE"]
    }
  }]
}.freeze
TRY_LATER = %w[
  ERROR_REASON_STORE_UNAVAILABLE ERROR_REASON_OVERLOADED ERROR_REASON_RATE_LIMITED ERROR_REASON_TOO_MANY_ATTEMPTS
  ERROR_REASON_DEADLINE_EXCEEDED
].freeze

# Lets protobuf decode 100 levels of messages, as it does in other languages. Ruby's own limit is 64. The stub calls
# the class's decode without options, so only a decode of the class itself can give it one.
module Deep
  def decode(bytes, options = {})
    super(bytes, { recursion_limit: 100 }.merge(options))
  end
end
Taskgate::V1::GetTaskResponse.singleton_class.prepend(Deep)

def get(target, task_id)
  authority = ENV.fetch("TASKGATE_CA", "")
  token = ENV.fetch("TASKGATE_TOKEN", "")
  credentials =
    authority.empty? ? :this_channel_is_insecure : GRPC::Core::ChannelCredentials.new(File.read(authority))
  options = { "grpc.service_config" => JSON.generate(RETRIES), "grpc.max_receive_message_length" => 32 << 20 }
  client = Taskgate::V1::TaskService::Stub.new(target, credentials, channel_args: options)
  task = client.get_task(
    Taskgate::V1::GetTaskRequest.new(task_id: task_id),
    deadline: Time.now + 10,
    metadata: token.empty? ? {} : { "authorization" => "Bearer #{token}" }
  ).task
  puts task.status
  output = task.output_data.to_a.to_h # the values as messages: to_h alone turns them into Ruby, which loses their kinds
  puts Google::Protobuf::Struct.new(fields: output).to_json
end

# Says what happened, by the reason in the error's details, and returns an exit code: 75 for an error that may pass.
def explain(error, task_id)
  reason = reason_of(error)
  if error.is_a?(GRPC::NotFound)
    warn "There is no task #{task_id}"
    return 1
  elsif TRY_LATER.include?(reason)
    later = reason
  elsif error.is_a?(GRPC::Unavailable) # no connection, or a proxy without a server: it has no reason
    later = "the server is unavailable: #{error.details}"
  elsif error.is_a?(GRPC::DeadlineExceeded)
    later = "no answer in time" # the client's own deadline, which has no reason
  else
    warn "#{reason || error.class}: #{error.details}"
    return 1
  end
  warn "Try again later: #{later}"
  75
end

# Returns taskgate's reason for an error, or nil if it has none.
def reason_of(error)
  infos = error.to_rpc_status&.details.to_a.filter_map { |detail| detail.unpack(Google::Rpc::ErrorInfo) }
  infos.find { |info| info.domain == "taskgate" }&.reason
end

# Prints a line of JSON for each answer that was saved to the folder.
def read(folder)
  Dir.glob("*.binpb", base: folder).sort.each do |name|
    task = Taskgate::V1::GetTaskResponse.decode(File.binread(File.join(folder, name))).task
    puts JSON.generate(name: File.basename(name, ".binpb"), task: JSON.parse(task.to_json))
  end
end

case ARGV
in ["get", target, task_id]
  begin
    get(target, task_id)
  rescue GRPC::BadStatus => e
    exit explain(e, task_id)
  end
in ["read", folder]
  read(folder)
else
  warn "usage: client.rb get HOST:PORT TASK_ID | read FOLDER"
  exit 2
end
