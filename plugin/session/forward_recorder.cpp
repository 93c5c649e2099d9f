#include "plugin/session/forward_recorder.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "analysis/devices/device_kernels.h"
#include "analysis/routers/router_kernel_arguments.h"
#include "analysis/routers/router_sums.h"
#include "analysis/routers/token_outputs.h"
#include "plugin/process/error_text.h"
#include "plugin/session/recording.h"

namespace moetap::plugin {
namespace {

/// A graph is being captured on the current stream: see Note [Graphs].
bool is_capturing(c10::Device device) {
  const analysis::DeviceKernels* kernels = analysis::device_kernels(device.type());
  return kernels != nullptr && kernels->is_capturing(device);
}

/// Whether the tokens' ways from layer to layer are counted on the device: they are fewer numbers than first slots.
bool counts_ways_on_device(c10::Device device, int64_t num_tokens, int64_t num_experts) {
  return !device.is_cpu() && num_tokens * static_cast<int64_t>(sizeof(int32_t)) >
                                 num_experts * num_experts * static_cast<int64_t>(sizeof(int64_t));
}

/// The first `count` valid tokens of a group, then padding: int64 [count].
at::Tensor first_tokens(const TokenGroup& group, int64_t count) {
  // A stable sort brings the valid tokens to the front without asking the device how many there are.
  if (group.valid.defined()) {
    return std::get<1>(group.valid.logical_not().to(at::kByte).sort(/*stable=*/true, 0, false)).narrow(0, 0, count);
  }
  return at::arange(count, at::TensorOptions().dtype(at::kLong).device(group.device));
}

}  // namespace

ForwardRecorder::ForwardRecorder(std::shared_ptr<ModelBinding> binding, std::string method,
                                 const c10::List<std::optional<at::Tensor>>& arguments)
    : binding_(std::move(binding)),
      method_(std::move(method)),
      options_([this] {
        const Config& config = binding_->recording().config();
        return Capture{config.log_per_token || config.dump != Dump::kNone, config.dump == Dump::kFull,
                       config.probe_tokens};
      }()),
      host_values_(std::make_shared<ForwardValues>(binding_->shared_recording())) {
  pending_->copies = std::make_shared<HostCopies>(binding_->block_pools());
  begin_on_this_thread();
  try {
    read_texts(arguments);
  } catch (const std::exception& error) {
    if (binding_->recording().config().strict) {
      throw;
    }
    binding_->recording().notice("token ids and mask were not understood", one_line(error));
  }
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
      binding_->recording().forward_aborted(batch_.value_or(1), source_);
    } catch (const std::exception&) {
      // A lock that cannot be taken: the count is lost, the host is not.
    }
  }
}

void ForwardRecorder::read_texts(const c10::List<std::optional<at::Tensor>>& arguments) {
  const TextArguments places = binding_->text_arguments(method_);
  const auto argument = [&](const std::optional<size_t>& place) {
    if (!place || *place >= arguments.size()) {
      return at::Tensor();
    }
    const std::optional<at::Tensor> tensor = arguments.get(*place);
    return tensor && tensor->defined() ? tensor->detach() : at::Tensor();
  };
  const bool keep_ids = binding_->recording().config().dump != Dump::kNone;
  text_ = read_text(argument(places.ids), argument(places.mask), keep_ids);
  decoder_text_ = read_text(argument(places.decoder_ids), argument(places.decoder_mask), keep_ids);
  for (const TextTokens* text : {&text_, &decoder_text_}) {
    if (!text->notice.empty()) {
      binding_->recording().notice(text->notice, text->notice_detail);
    }
    if (!batch_ && text->batch > 0) {
      batch_ = text->batch;
    }
  }
}

const TextTokens* ForwardRecorder::text_of(TextOfComponent text) const {
  switch (text) {
    case TextOfComponent::kText:
      return &text_;
    case TextOfComponent::kDecoder:
      return &decoder_text_;
    case TextOfComponent::kNone:
      break;
  }
  return nullptr;
}

QueryTokens ForwardRecorder::query_tokens() const {
  const TextTokens& text = decoder_text_.batch > 0 ? decoder_text_ : text_;
  return {text.batch, text.length, text.mask_columns};
}

std::shared_ptr<TokenGroup> ForwardRecorder::token_group(TextOfComponent text, const CapturedRouter& captured,
                                                         HostCopies* copies) {
  const std::lock_guard lock(mutex_);
  const auto device = captured.call.selected.device();
  const int64_t num_tokens = captured.call.selected.size(0);
  if (!batch_) {
    batch_ = batch_of_router(captured.token_sizes);
  }
  if (text != TextOfComponent::kNone && !ended_) {
    narrow_to_step(text == TextOfComponent::kText ? text_ : decoder_text_, num_tokens);
  }
  const Attribution attribution = attribute_tokens(captured.token_sizes, text_of(text), batch_);
  for (const auto& group : groups_) {
    if (group->text == text && group->device == device && group->num_tokens == num_tokens &&
        group->attribution == attribution) {
      return group;
    }
  }
  const bool tells_tokens =
      copies != nullptr &&
      (options_.per_token || options_.full || !counts_ways_on_device(device, num_tokens, captured.call.num_experts));
  groups_.push_back(new_token_group(text, attribution, num_tokens, device, tells_tokens ? copies : nullptr));
  if (copies != nullptr) copies->mark_stream(device);
  return groups_.back();
}

std::shared_ptr<TokenGroup> ForwardRecorder::new_token_group(TextOfComponent text, const Attribution& attribution,
                                                             int64_t num_tokens, c10::Device device,
                                                             HostCopies* copies) {
  auto group = std::make_shared<TokenGroup>();
  group->text = text;
  group->device = device;
  group->num_tokens = num_tokens;
  group->attribution = attribution;
  if (attribution.text) {
    const TextTokens& tokens = *text_of(text);
    if (tokens.valid.defined()) {
      group->valid = in_token_order(tokens.valid, attribution.order).to(device, /*non_blocking=*/true);
      if (!device.is_cpu() && copies != nullptr) group->valid = copies->snapshot(group->valid);
    }
    if (tokens.ids.defined()) {
      group->token_ids = in_token_order(tokens.ids, attribution.order);
      if (!device.is_cpu() && copies != nullptr) group->token_ids = copies->snapshot(group->token_ids);
    }
  }
  group->rows = rows_for(attribution, group->valid);
  return group;
}

at::Tensor ForwardRecorder::probed_logits(TokenGroup& group, const at::Tensor& logits) {
  {
    const std::lock_guard lock(mutex_);
    if (!group.probed.defined()) {
      group.probed = first_tokens(group, std::min(options_.probe_tokens, group.num_tokens));
    }
  }
  return logits.index_select(0, group.probed);
}

void ForwardRecorder::observe(const analysis::RouterCall& call, HostCopies& copies, PendingRouter& router) {
  const c10::Device device = call.selected.device();
  const int64_t num_tokens = call.selected.size(0), top_k = call.selected.size(1);
  RouterRecord& record = router.record;
  analysis::RouterSums& sums = record.sums;
  sums = {call.num_experts, top_k, router.group->rows.num_rows};
  sums.has_pairs = sums.layout().pair_words() > 0;
  sums.words = copies.zeros(device, {sums.layout().words()}, at::kLong);
  if (options_.per_token) {
    record.selected = copies.empty(device, {num_tokens, top_k}, at::kInt);
    if (call.weights.defined()) record.weights = copies.empty(device, {num_tokens, top_k}, at::kFloat);
  }
  const RouterBefore before = router_before(router);
  router.first_slot_stays = counts_ways_on_device(device, num_tokens, call.num_experts);
  if (router.first_slot_stays) {
    router.first_slot = at::empty({num_tokens}, call.selected.options().dtype(at::kInt));
    copies.keep(router.first_slot);
  } else {
    router.first_slot = copies.empty(device, {num_tokens}, at::kInt);
  }
  analysis::TransitionFrom transition;
  if (before.first_slot.defined() && (router.first_slot_stays || before.first_slot_stays)) {
    router.transition_from = before.hook;
    router.transition_counts = copies.zeros(device, {before.num_experts, call.num_experts}, at::kLong);
    transition = {before.first_slot, router.transition_counts};
  }
  analysis::observe_into(sums, call, router.group->rows, {record.selected, record.weights, router.first_slot},
                         transition);
}

void ForwardRecorder::observe_captured(const analysis::RouterCall& call, PendingRouter& router) {
  if (!analysis::kernel_takes(call)) {
    binding_->recording().notice(
        "routers of more experts or slots than moetap's kernel takes are not recorded in graphs");
    return;
  }
  std::shared_ptr<GraphReplays> captured;
  {
    const std::lock_guard lock(mutex_);
    if (ended_) return;
    const bool generation = source_.label && source_.label->generation;
    if (!captured_) captured_ = GraphReplays::begin(binding_->model(), method_, generation);
    captured = captured_;
  }
  const c10::Device device = call.selected.device();
  analysis::RouterSums& sums = router.record.sums;
  sums = {call.num_experts, call.selected.size(1), router.group->rows.num_rows};
  sums.has_pairs = sums.layout().pair_words() > 0;
  sums.words = captured->zeros(device, {sums.layout().words()}, at::kLong);
  router.first_slot = at::empty({call.selected.size(0)}, call.selected.options().dtype(at::kInt));
  analysis::TransitionFrom transition;
  if (const auto before = captured->before(router)) {
    router.transition_from = before->record.hook;
    router.transition_counts = captured->zeros(device, {before->record.sums.num_experts, call.num_experts}, at::kLong);
    transition = {before->first_slot, router.transition_counts};
  }
  analysis::observe_into(sums, call, router.group->rows, {{}, {}, router.first_slot}, transition);
  sums.pending_terms = 0;
  captured->add(std::move(router));
}

ForwardRecorder::RouterBefore ForwardRecorder::router_before(const PendingRouter& router) {
  const std::lock_guard lock(mutex_);
  if (ended_) return {};
  const auto& routers = pending_->routers;
  const auto found = std::find_if(routers.rbegin(), routers.rend(), [&](const PendingRouter& known) {
    return comes_before(known, router, *binding_->model());
  });
  if (found == routers.rend()) return {};
  return {found->record.hook, found->record.sums.num_experts, found->first_slot, found->first_slot_stays};
}

void ForwardRecorder::capture(int64_t hook_id, const ReportedRouter& reported) {
  const hooks::HookPoint& hook = binding_->model()->hooks.at(static_cast<size_t>(hook_id));
  PendingRouter router;
  auto& record = router.record;
  record.hook = hook_id;
  std::shared_ptr<HostCopies> copies;
  {
    const std::lock_guard lock(mutex_);
    if (ended_) {
      return;
    }
    record.call = calls_[hook_id]++;
    copies = pending_->copies;
  }
  const CapturedRouter captured = capture_router(reported, hook);
  const c10::Device device = captured.call.selected.device();
  const bool in_graph = is_capturing(device);
  if (!in_graph) copies->wait_for_marked(device);  // what routers on other streams made is used here
  router.group = token_group(text_of_component(hook.component), captured, in_graph ? nullptr : copies.get());
  if (in_graph) {
    observe_captured(captured.call, router);
    return;
  }
  router.out_of_range = captured.out_of_range;
  observe(captured.call, *copies, router);
  copies->mark_stream(device);
  if (options_.full) {
    record.logits = copies->snapshot(captured.call.logits);
    record.scores = copies->snapshot(captured.call.scores);
  } else if (captured.call.logits.defined() && binding_->probed_tokens()->of(hook_id) < options_.probe_tokens) {
    record.logits = probed_logits(*router.group, captured.call.logits);
  }
  const std::lock_guard lock(mutex_);
  if (ended_) {
    copies->wrote_too_late(device);
    return;
  }
  if (record.logits.defined() || record.scores.defined())
    copies->mark_stream(device);  // snapshots since the mark above
  pending_->routers.push_back(std::move(router));
}

void ForwardRecorder::router(int64_t hook, const ReportedRouter& reported) {
  if (binding_->stopped(hook)) {
    return;
  }
  try {
    capture(hook, reported);
  } catch (const std::exception& error) {
    binding_->recording().hook_failed(*binding_, hook, one_line(error));
    if (binding_->recording().config().strict) {
      throw;
    }
  }
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
    TORCH_CHECK(!is_capturing(tensor.device()), "a graph is being captured, whose values are not known");
    pending_->values.push_back({std::move(place), std::move(name), pending_->copies->snapshot(tensor.reshape({}))});
    pending_->copies->mark_stream(tensor.device());
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
  try {
    add_value(std::move(component), std::move(layer), name, value);
  } catch (const std::exception& error) {
    binding_->recording().notice(fmt::format("the logged value \"{}\" is left out", name), one_line(error));
    if (binding_->recording().config().strict) {
      throw;
    }
  }
}

void ForwardRecorder::end_captured() {
  {
    const std::lock_guard lock(host_values_->mutex);
    host_values_->state = ForwardValues::State::kLost;
  }
  try {
    TORCH_CHECK(captured_, "none of its routers was captured");
    captured_->end();
    binding_->recording().forward_captured(captured_);
  } catch (const std::exception& error) {
    binding_->recording().notice("a forward that a graph captured is not recorded", one_line(error));
    if (binding_->recording().config().strict) throw;
  }
}

void ForwardRecorder::end() {
  std::unique_ptr<PendingForward> pending;
  int64_t batch = 1;
  TextTokens text;  // a fork that is still reporting may narrow the member
  {
    const std::lock_guard lock(mutex_);
    if (ended_ || !binding_->recording().in_own_process()) {
      return;
    }
    ended_ = true;
    pending = std::move(pending_);
    batch = batch_.value_or(1);
    text = text_;
    source_.query = query_tokens();
    for (const auto& group : groups_) {
      // A later router showed that there are several samples.
      if (group->attribution.assumes_one_sample && batch > 1) {
        group->attribution.attributed = false;
      }
    }
  }
  const bool in_graph = (text.valid.defined() && is_capturing(text.valid.device())) ||
                        std::any_of(pending->routers.begin(), pending->routers.end(),
                                    [](const PendingRouter& router) { return is_capturing(router.group->device); });
  if (captured_ || in_graph) {
    end_captured();
    return;
  }
  pending->num_samples = batch;
  pending->probed_tokens = binding_->probed_tokens();
  pending->record.model = binding_->model();
  pending->record.method = method_;
  pending->record.duration_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - began_).count();
  try {
    const auto sees_text = [](const PendingRouter& router) {
      return router.group->attribution.text && router.group->text == TextOfComponent::kText;
    };
    // A router that sees the text has counted its tokens.
    if (text.batch > 0 && std::none_of(pending->routers.begin(), pending->routers.end(), sees_text)) {
      pending->text_tokens = text.valid.defined() ? pending->copies->snapshot(text.valid.sum())
                                                  : at::scalar_tensor(text.batch * text.length, at::kLong);
    }
    pending->start_copies();
    binding_->recording().forward_ended(std::move(pending), source_, *host_values_);
  } catch (const std::exception& error) {
    binding_->recording().notice("a forward was not recorded", one_line(error));
    binding_->recording().forward_aborted(batch, source_);
    const std::lock_guard lock(host_values_->mutex);
    host_values_->state = ForwardValues::State::kLost;
    if (binding_->recording().config().strict) {
      throw;
    }
  }
}

}  // namespace moetap::plugin
