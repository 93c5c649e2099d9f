#include "plugin/session/forward_recorder.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "plugin/capture/device_stream.h"
#include "plugin/process/error_text.h"
#include "plugin/process/recycled_memory.h"
#include "plugin/session/recording.h"

namespace moetap::plugin {
namespace {

template <typename T, typename... Arguments>
std::shared_ptr<T> make_recycled(Arguments&&... arguments) {
  return std::allocate_shared<T>(RecyclingAllocator<T>(), std::forward<Arguments>(arguments)...);
}

RouterValues router_values(const Recording& recording) {
  const Config& config = recording.config();
  const bool by_expert = config.attention != Attention::kOff;  // needs ids and weights of each token
  return {config.log_per_token || config.dump != Dump::kNone || by_expert,
          config.dump == Dump::kFull,
          probed_tokens(config),
          recording.records_held_calls() && !by_expert,
          config.dump_router_input,
          by_expert};
}

}  // namespace

ForwardRecorder::ForwardRecorder(std::shared_ptr<ModelBinding> binding, std::string method,
                                 const c10::List<std::optional<at::Tensor>>& arguments)
    : binding_(std::move(binding)),
      method_(std::move(method)),
      host_values_(make_recycled<ForwardValues>(binding_->shared_recording())),
      copies_(make_recycled<HostCopies>(binding_->block_pools())),
      tokens_(make_recycled<ForwardTokens>()),
      routers_(context(), router_values(binding_->recording()), binding_->routers()) {
  Recording& recording = binding_->recording();
  // What a graph captures runs for as long as the graph is replayed.
  is_skipped_ = !recording.wants_forward() && !is_capturing(arguments);
  if (binding_->records_attention() && !is_skipped_) {
    attention_ = std::make_unique<AttentionObserver>(context(), attention_values(arguments), binding_->cached_regions(),
                                                     binding_->routers()->checks);
  }
  pending_ = std::make_unique<PendingForward>(copies_);
  begin_on_this_thread();
  try {
    tokens_->read(binding_->text_arguments(method_), arguments,
                  !is_skipped_ && (recording.config().dump != Dump::kNone || binding_->attention_needs_ids()), *copies_,
                  [&](const std::string& what, const std::string& detail) { recording.notice(what, detail); });
  } catch (const std::exception& error) {
    if (recording.config().strict) {
      throw;
    }
    recording.notice("token ids and mask were not understood", one_line(error));
  }
}

AttentionValues ForwardRecorder::attention_values(const c10::List<std::optional<at::Tensor>>& arguments) const {
  const Config& config = binding_->recording().config();
  AttentionValues values;
  values.matrix = config.attention == Attention::kFull;
  values.values = config.attention == Attention::kStats && config.dump != Dump::kNone;
  values.tells_tokens = tells_tokens(config);
  values.limit_bytes = config.attention_limit_bytes;
  values.sample = config.attention_sample;
  values.seed = static_cast<uint64_t>(config.seed);
  values.regions = binding_->attention_regions();
  values.samples = [this](int64_t batch) {
    SampleSource source = source_;
    source.query = query_tokens();
    return binding_->recording().expected_samples(batch, source);
  };
  const std::optional<size_t> place = binding_->region_argument(method_);
  if (place && *place < arguments.size()) {
    const std::optional<at::Tensor> regions = arguments.get(*place);
    if (regions && regions->defined() && regions->dim() == 2) values.region_argument = regions->detach().to(at::kLong);
  }
  if (values.regions.by == AttentionRegions::By::kArgument && !values.region_argument.defined()) {
    binding_->recording().notice(
        "a forward does not give the argument of attention_regions as [B, S]: its tokens are of the last region",
        fmt::format("{} of {}", values.regions.argument, method_));
  }
  return values;
}

ForwardContext ForwardRecorder::context() {
  return {binding_->model(), tokens_, copies_, [this] { return replays(); },
          [this](const std::string& what, const std::string& detail) { binding_->recording().notice(what, detail); }};
}

std::shared_ptr<GraphReplays> ForwardRecorder::replays() {
  const std::lock_guard lock(mutex_);
  if (ended_) return nullptr;
  const bool generation = source_.label && source_.label->generation;
  if (!replays_) replays_ = GraphReplays::begin(binding_->model(), method_, generation);
  return replays_;
}

void ForwardRecorder::begin_on_this_thread() {
  const Recording& recording = binding_->recording();
  HostThread& thread = recording.threads().this_thread();
  host_values_->values = std::exchange(thread.early_values, {});
  thread.last_forward = host_values_;
  source_.label = thread.label;
  if (recording.config().unlabelled == Unlabelled::kFollow) {
    auto& follower = thread.followers[binding_.get()];
    if (!follower) follower = std::make_shared<GenerationFollower>();
    source_.follower = follower;
  }
}

ForwardRecorder::~ForwardRecorder() {
  if (!ended_) {
    try {
      const std::lock_guard lock(host_values_->mutex);
      host_values_->state = ForwardValues::State::kLost;
      source_.query = query_tokens();
      binding_->recording().forward_aborted(num_samples(), source_);
    } catch (const std::exception&) {
      // A lock cannot be taken: the forward is not counted, and the host runs on.
    }
  }
}

QueryTokens ForwardRecorder::query_tokens() const {
  const TextTokens text = tokens_->query_text();
  return {text.batch, text.length, text.mask_columns};
}

template <typename Observe>
bool ForwardRecorder::report(int64_t hook, const Observe& observe) {
  try {
    if (!binding_->stopped(hook)) {
      if (binding_->call(hook)) binding_->recording().hook_called();
      observe();
    }
  } catch (const std::exception& error) {
    binding_->recording().hook_failed(*binding_, hook, one_line(error));
    if (binding_->recording().config().strict) {
      throw;
    }
    return false;
  }
  return true;
}

void ForwardRecorder::attention(int64_t hook, const ReportedAttention& reported) {
  if (attention_) report(hook, [&] { attention_->observe(hook, reported); });
}

void ForwardRecorder::router(int64_t hook, const ReportedRouter& reported) {
  if (is_skipped_) return;
  const bool observed = report(hook, [&] { routers_.observe(hook, reported); });
  if (!observed || !binding_->recording().config().strict) return;
  const std::string reason = binding_->checks().reason(hook);
  // This forward will not be recorded: what does not fit is told by a record of its own.
  if (!reason.empty()) binding_->recording().tell_unverified(binding_->model(), binding_->routers()->checks);
  TORCH_CHECK(reason.empty(), "hook \"", binding_->model()->hooks.at(static_cast<size_t>(hook)).name, "\": ", reason);
}

void ForwardRecorder::add_value(std::string component, std::string layer, std::string name, const c10::IValue& value) {
  const std::lock_guard lock(mutex_);
  if (ended_) {
    return;
  }
  std::pair place(std::move(component), std::move(layer));
  if (value.isTensor()) {
    const at::Tensor tensor = value.toTensor().detach();
    TORCH_CHECK(tensor.numel() == 1 && !tensor.is_complex(),
                "it must be a number, a bool or a tensor of one element, got ", tensor.scalar_type(), " ",
                tensor.sizes());
    TORCH_CHECK(!copies_->is_capturing(tensor.device()), "a graph is being captured, whose values are not known");
    pending_->values.push_back({std::move(place), std::move(name), copies_->snapshot(tensor.reshape({}))});
    copies_->mark_stream(tensor.device());
    return;
  }
  CustomValue number;
  if (value.isBool()) {
    number = value.toBool();
  } else if (value.isInt()) {
    number = value.toInt();
  } else {
    TORCH_CHECK(value.isDouble(), "it must be a number, a bool or a tensor of one element, got ", value.tagKind());
    number = value.toDouble();
  }
  pending_->values.erase(std::remove_if(pending_->values.begin(), pending_->values.end(),
                                        [&](const PendingValue& v) { return v.place == place && v.name == name; }),
                         pending_->values.end());
  pending_->record.custom[place].insert_or_assign(name, number);
}

void ForwardRecorder::log(std::string component, std::string layer, std::string name, const c10::IValue& value) {
  if (is_skipped_) return;
  try {
    add_value(std::move(component), std::move(layer), name, value);
  } catch (const std::exception& error) {
    binding_->recording().notice(fmt::format("the logged value \"{}\" is left out", name), one_line(error));
    if (binding_->recording().config().strict) {
      throw;
    }
  }
}

bool ForwardRecorder::is_capturing(const c10::List<std::optional<at::Tensor>>& arguments) const {
  for (const std::optional<at::Tensor>& argument : arguments) {
    if (argument && argument->defined() && !argument->device().is_cpu()) {
      return copies_->is_capturing(argument->device());
    }
  }
  return false;
}

void ForwardRecorder::end_skipped() {
  {
    const std::lock_guard lock(host_values_->mutex);
    host_values_->state = ForwardValues::State::kSkipped;
    host_values_->values.clear();
  }
  tokens_->end();
  source_.query = query_tokens();
  binding_->recording().forward_skipped(num_samples(), source_);
}

void ForwardRecorder::end_replayed() {
  {
    const std::lock_guard lock(host_values_->mutex);
    host_values_->state = ForwardValues::State::kLost;
  }
  try {
    TORCH_CHECK(replays_, "none of its routers or attention layers was captured");
    std::vector<std::unique_ptr<PendingReport>> reports;
    auto routers = routers_.end_replayed();
    const std::vector<RouterOfForward> calls = routers ? routers->calls() : std::vector<RouterOfForward>();
    auto attention = attention_ ? attention_->end_replayed(calls, *replays_) : nullptr;
    if (routers) {
      routers->forget_tokens();
      reports.push_back(std::move(routers));
    }
    if (attention) reports.push_back(std::move(attention));
    replays_->end(std::move(reports));
    binding_->recording().add_replays(replays_);
  } catch (const std::exception& error) {
    binding_->recording().notice("a forward that a graph captured is not recorded", one_line(error));
    if (binding_->recording().config().strict) throw;
  }
}

void ForwardRecorder::end() {
  std::unique_ptr<PendingForward> pending;
  {
    const std::lock_guard lock(mutex_);
    if (ended_ || !binding_->recording().in_own_process()) {
      return;
    }
    ended_ = true;
    pending = std::move(pending_);
  }
  try {
    if (is_skipped_) {
      end_skipped();
      return;
    }
    auto routers = routers_.end();
    tokens_->end();
    source_.query = query_tokens();
    auto attention = attention_ ? attention_->end(routers.get(), num_samples()) : nullptr;
    if (routers) pending->reports.push_back(std::move(routers));
    // Behind the routers: what experts attend to is summed up once their ids and weights are in the record.
    if (attention) pending->reports.push_back(std::move(attention));
    if (!replays_ && !tokens_->in_captured_graph(*copies_)) {
      record(std::move(pending));
      return;
    }
  } catch (const std::exception& error) {
    not_recorded(error);
    if (binding_->recording().config().strict) {
      throw;
    }
    return;
  }
  end_replayed();
}

void ForwardRecorder::record(std::unique_ptr<PendingForward> pending) {
  pending->num_samples = num_samples();
  pending->record.model = binding_->model();
  pending->record.method = method_;
  pending->record.duration_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - began_).count();
  const TextTokens text = tokens_->text();
  const bool is_counted = std::any_of(pending->reports.begin(), pending->reports.end(),
                                      [](const auto& report) { return report->counts_text(); });
  if (text.batch > 0 && !is_counted) {
    if (text.valid.defined()) {
      const OutsideCaptures outside(text.valid.device());
      copies_->wait_for_marked(text.valid.device());
      pending->text_tokens = copies_->snapshot(text.valid.sum());
    } else {
      pending->text_tokens = at::scalar_tensor(text.batch * text.length, at::kLong);
    }
  }
  pending->start_copies();
  binding_->recording().forward_ended(std::move(pending), source_, *host_values_);
}

void ForwardRecorder::not_recorded(const std::exception& error) {
  {
    const std::lock_guard lock(host_values_->mutex);
    // Else the recording has counted the forward already, as one that it took or dropped.
    if (host_values_->state != ForwardValues::State::kRunning) return;
    host_values_->state = ForwardValues::State::kLost;
  }
  binding_->recording().forward_aborted(num_samples(), source_);
  binding_->recording().notice("a forward was not recorded", one_line(error));
}

}  // namespace moetap::plugin
