#include "plugin/capture/router_pending.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <utility>

#include "analysis/numbers/fixed_point.h"
#include "analysis/routers/router_sums.h"
#include "analysis/routers/transition_sums.h"
#include "plugin/capture/device_stream.h"
#include "plugin/capture/host_copies.h"

namespace moetap::plugin {
namespace {

bool stands_before(const MeasuredRouter& a, const MeasuredRouter& b) {
  return std::pair(a.record.hook, a.record.call) < std::pair(b.record.hook, b.record.call);
}

/// The two may be on different devices.
bool see_same_tokens(const TokenGroup& a, const TokenGroup& b) {
  return a.text == b.text && a.num_tokens == b.num_tokens && a.attribution == b.attribution;
}

struct CallName {
  int64_t hook, call;
};
CallName name_of(const MeasuredRouter& router) {
  return {router.record.hook, router.record.call};
}
CallName name_of(const HeldCalls::Call& call) {
  return {call.hook, call.call};
}

/// Note [The router before]: of the calls in [begin, end), which are those that stand before `of`. Null: none.
template <typename Iterator>
const typename Iterator::value_type* router_before(const ModelDescription& model, Iterator begin, Iterator end,
                                                   const typename Iterator::value_type& of) {
  const auto component = [&](int64_t hook) -> const std::string& {
    return model.hooks.at(static_cast<size_t>(hook)).component;
  };
  const CallName name = name_of(of);
  while (end != begin) {
    --end;
    const CallName known = name_of(*end);
    if (known.hook == name.hook || known.call != name.call || component(known.hook) != component(name.hook)) continue;
    return see_same_tokens(*end->tokens, *of.tokens) ? &*end : nullptr;
  }
  return nullptr;
}

/// As a call that was measured in the forward.
MeasuredRouter measured(const HeldCalls::Call& held, bool per_token) {
  const analysis::HostRouterCall& call = held.values;
  MeasuredRouter router;
  router.tokens = held.tokens;
  RouterRecord& record = router.record;
  record.hook = held.hook;
  record.call = held.call;
  record.sums = analysis::empty_router_sums(call.num_experts, call.top_k, call.num_rows);
  router.first_slot = at::empty({call.num_tokens}, at::kInt);
  analysis::HostTokenOutputs outputs;
  outputs.first_slot = router.first_slot.mutable_data_ptr<int32_t>();
  if (per_token) {
    record.selected = at::empty({call.num_tokens, call.top_k}, at::kInt);
    outputs.selected = record.selected.mutable_data_ptr<int32_t>();
  }
  if (per_token && call.weights.defined()) {
    record.weights = at::empty({call.num_tokens, call.top_k}, at::kFloat);
    outputs.weights = record.weights.mutable_data_ptr<float>();
  }
  if (per_token && call.has_margins()) {
    record.margins = at::empty({call.num_tokens}, at::kFloat);
    outputs.margins = record.margins.mutable_data_ptr<float>();
  }
  analysis::observe_host(call, host_sums(record.sums), outputs);
  return router;
}

int64_t count_valid(const analysis::HostRouterCall& call) {
  return call.valid == nullptr ? call.num_tokens : std::count(call.valid, call.valid + call.num_tokens, true);
}

bool tells_of_single_tokens(const MeasuredRouter& router) {
  return router.first_slot.defined() || router.record.selected.defined() || router.record.logits.defined();
}

analysis::TransitionSums count_from_first_slots(const MeasuredRouter& before, const MeasuredRouter& router,
                                                const analysis::TokenRows& rows) {
  return analysis::observe_transition(before.first_slot.to(at::kLong), router.first_slot.to(at::kLong), rows,
                                      before.record.sums.num_experts, router.record.sums.num_experts);
}

}  // namespace

bool counts_transitions_on_device(c10::Device device, int64_t num_tokens, int64_t num_experts) {
  return !device.is_cpu() && num_experts * num_experts * static_cast<int64_t>(sizeof(int64_t)) <
                                 num_tokens * static_cast<int64_t>(sizeof(int32_t));
}

void PendingRouters::add(MeasuredRouter router) {
  const auto place = std::upper_bound(routers_.begin(), routers_.end(), router, stands_before);
  routers_.insert(place, std::move(router));
}

const MeasuredRouter* PendingRouters::before(const MeasuredRouter& router) const {
  const auto place = std::lower_bound(routers_.begin(), routers_.end(), router, stands_before);
  return router_before(*model_, routers_.begin(), place, router);
}

MeasuredRouter* PendingRouters::before(const MeasuredRouter& router) {
  return const_cast<MeasuredRouter*>(std::as_const(*this).before(router));
}

analysis::TransitionFrom PendingRouters::count_transitions(MeasuredRouter& router, const Zeros& zeros) const {
  const MeasuredRouter* from = before(router);
  if (from == nullptr || from->tokens->device != router.tokens->device) return {};
  if (!from->first_slot_stays && !router.first_slot_stays) return {};
  if (from->captured) from->captured->block(current_stream(router.tokens->device));
  router.transition_from = from->record.hook;
  router.transition_counts = zeros({from->record.sums.num_experts, router.record.sums.num_experts}, at::kLong);
  return {from->first_slot, router.transition_counts};
}

void PendingRouters::add_held(std::shared_ptr<HeldCalls> held, bool per_token, bool record_held) {
  held_ = std::move(held);
  held_per_token_ = per_token;
  record_held_ = record_held;
}

std::vector<RouterOfForward> PendingRouters::calls() const {
  std::vector<RouterOfForward> calls;
  for (const MeasuredRouter& router : routers_) {
    const RouterRecord& record = router.record;
    calls.push_back({record.hook, record.call, router.tokens, record.selected, record.weights, record.sums.num_experts,
                     router.misfits.defined(), router.captured});
  }
  if (!held_) return calls;
  for (const HeldCalls::Call& held : held_->calls()) {
    calls.push_back({held.hook, held.call, held.tokens, {}, {}, held.values.num_experts, false});
  }
  std::sort(calls.begin(), calls.end(), [](const RouterOfForward& a, const RouterOfForward& b) {
    return std::pair(a.hook, a.call) < std::pair(b.hook, b.call);
  });
  return calls;
}

void PendingRouters::forget_tokens() {
  for (MeasuredRouter& router : routers_) {
    router.first_slot = router.record.selected = router.record.weights = at::Tensor();
    router.captured.reset();
    auto tokens = std::make_shared<TokenGroup>();
    tokens->text = router.tokens->text;
    tokens->num_tokens = router.tokens->num_tokens;
    tokens->attribution = router.tokens->attribution;
    tokens->attribution.attributed = false;
    router.tokens = std::move(tokens);
  }
}

bool PendingRouters::counts_text() const {
  const auto sees_text = [](const auto& router) {
    return router.tokens->attribution.text && router.tokens->text == TextOfComponent::kText;
  };
  return std::any_of(routers_.begin(), routers_.end(), sees_text) ||
         (held_ && std::any_of(held_->calls().begin(), held_->calls().end(), sees_text));
}

PendingRouters::Columns& PendingRouters::columns_of(const MeasuredRouter& router) {
  const auto found = std::find_if(columns_.begin(), columns_.end(),
                                  [&](const Columns& columns) { return columns.tokens == router.tokens; });
  if (found != columns_.end()) return *found;
  columns_.push_back({router.tokens, router.tokens->valid, router.tokens->token_ids, router.tokens->places});
  return columns_.back();
}

void PendingRouters::prepare(HostCopies& copies) {
  for (MeasuredRouter& router : routers_) {
    MeasuredRouter* from = before(router);
    if (from == nullptr || router.transition_from == from->record.hook) continue;
    if (!from->first_slot_stays && !router.first_slot_stays) continue;  // `finish` counts them
    const c10::Device device = router.tokens->device;
    if (from->tokens->device != device) {
      from->first_slot_stays = router.first_slot_stays = false;
      continue;
    }
    const OutsideCaptures outside(device);
    // Forks may have made the first slots on other streams.
    copies.wait_for_marked(device);
    router.transition_from = from->record.hook;
    router.transition_counts = count_from_first_slots(*from, router, router.tokens->rows).counts;
    copies.mark_stream(device);
  }
  // Held calls join the others in `finish`: one of them may stand between two that are on a device.
  if (held_ && !held_->empty()) {
    for (MeasuredRouter& router : routers_) router.first_slot_stays = false;
  }
  for (MeasuredRouter& router : routers_) {
    if (router.first_slot_stays) router.first_slot = at::Tensor();
    if (tells_of_single_tokens(router)) columns_of(router);
  }
}

void PendingRouters::visit_tensors(Visit visit) {
  for (MeasuredRouter& router : routers_) {
    RouterRecord& record = router.record;
    for (at::Tensor* tensor :
         {&record.sums.words, &record.selected, &record.weights, &record.margins, &record.logits, &record.scores,
          &record.input, &router.misfits, &router.out_of_range, &router.first_slot, &router.transition_counts}) {
      visit(*tensor);
    }
  }
  for (Columns& columns : columns_) {
    visit(columns.valid);
    visit(columns.token_ids);
    visit(columns.places);
  }
}

void PendingRouters::Columns::drop_padding() {
  const Attribution& attribution = tokens->attribution;
  num_kept = tokens->num_tokens;
  if (valid.defined()) {
    kept = valid.nonzero().squeeze(1);
    num_kept = kept.numel();
  }
  row = keep(row_column(attribution, tokens->num_tokens, places));
  position = keep(position_column(attribution, tokens->num_tokens, places));
  token_id = keep(token_ids.defined() ? token_ids.to(at::kInt) : at::full({tokens->num_tokens}, -1, at::kInt));
}

at::Tensor PendingRouters::Columns::keep(const at::Tensor& rows) const {
  return rows.defined() && kept.defined() ? rows.index_select(0, kept) : rows;
}

bool PendingRouters::can_record_held(size_t num_samples) const {
  return record_held_ && routers_.empty() &&
         std::all_of(held_->calls().begin(), held_->calls().end(), [&](const HeldCalls::Call& held) {
           return held.values.num_rows == static_cast<int64_t>(num_samples) &&
                  held.values.num_tokens <= held.values.num_rows * kMaxHeldTokens;
         });
}

void PendingRouters::finish_held(ForwardRecord& record) {
  if (!held_ || held_->empty()) return;
  held_->sort();
  const std::vector<HeldCalls::Call>& calls = held_->calls();
  if (!can_record_held(record.samples.size())) {
    for (const HeldCalls::Call& held : calls) add(measured(held, held_per_token_));
    held_.reset();
    return;
  }
  record.held.reserve(calls.size());
  for (auto held = calls.begin(); held != calls.end(); ++held) {
    const HeldCalls::Call* before = router_before(*model_, calls.begin(), held, *held);
    record.held.push_back({held->hook, held->call, before == nullptr ? -1 : before - calls.data(), held->values});
    record.tokens = std::max(record.tokens, count_valid(held->values));
  }
  record.held_memory = std::move(held_);
}

void PendingRouters::finish(ForwardRecord& record) {
  finish_held(record);
  for (MeasuredRouter& router : routers_) finish_router(router, record);
  // Verdicts first: a call of a loop may have the one on an earlier call of its forward.
  for (MeasuredRouter& router : routers_) {
    if (router.misfits.defined()) {
      router.verdict = analysis::judge(router.misfits);
      checks_->came_back(router.record.hook, router.tokens->num_tokens, router.verdict);
    }
  }
  std::erase_if(routers_, [this](MeasuredRouter& router) { return !withhold(router); });
  record.unverified = checks_->untold();
  for (MeasuredRouter& router : routers_) {
    const MeasuredRouter* from = before(router);
    if (from == nullptr) continue;
    const int64_t from_hook = from->record.hook, to_hook = router.record.hook;
    if (router.transition_from == from_hook) {
      record.transitions.push_back(
          {from_hook,
           to_hook,
           {from->record.sums.num_experts, router.record.sums.num_experts, router.transition_counts}});
    } else if (from->first_slot.defined() && router.first_slot.defined()) {  // they are undefined in replays of a graph
      record.transitions.push_back({from_hook, to_hook, count_from_first_slots(*from, router, {})});
    }
  }
  for (MeasuredRouter& router : routers_) record.routers.push_back(std::move(router.record));
  routers_.clear();
  columns_.clear();
}

bool PendingRouters::withhold(MeasuredRouter& router) {
  RouterRecord& record = router.record;
  // On the CPU a call was measured with what was known of it then. What was found later is no matter of this call.
  if (router.tokens->device.is_cpu()) return true;
  const analysis::RouterColumns withheld = checks_->withheld(record.hook) & router.columns;
  if (withheld == 0) return true;
  const bool has_placeholders = router.verdict.contains(analysis::kWeightsColumn);
  if (withheld & analysis::kIdsColumn || (withheld & analysis::kWeightsColumn && !has_placeholders)) return false;
  analysis::leave_out(record.sums, withheld, router.columns);
  if (withheld & analysis::kLogitsColumn) record.logits = at::Tensor();
  if (withheld & analysis::kScoresColumn) record.scores = at::Tensor();
  if (withheld & analysis::kWeightsColumn) record.weights = record.margins = at::Tensor();
  return true;
}

void PendingRouters::recorded(const ForwardRecord& record) {
  checks_->told(record.unverified);
  for (const RouterRecord& router : record.routers) {
    if (router.logits.defined()) probed_->add(router.hook, router.logits.size(0));
  }
}

void PendingRouters::finish_router(MeasuredRouter& router, ForwardRecord& forward) {
  RouterRecord& record = router.record;
  if (forward.replays > 0) {
    const int64_t selections = record.sums.tokens() * std::max<int64_t>(1, record.sums.top_k);
    TORCH_CHECK(selections <= analysis::kMaxTermsPerCall, "at most ", analysis::kMaxTermsPerCall,
                " selections of a router may lie between two flushes, got ", selections, " in replays of a graph");
  }
  analysis::normalize(record.sums);
  record.attributed = router.tokens->attribution.attributed;
  record.text = router.tokens->attribution.text;
  if (!record.attributed && forward.replays == 0) ++forward.unattributed;
  forward.out_of_range +=
      router.out_of_range.defined() ? router.out_of_range.item<int64_t>() : record.sums.counter(analysis::kInvalidIds);
  forward.tokens = std::max(forward.tokens, record.sums.tokens());
  if (!tells_of_single_tokens(router)) return;

  Columns& columns = columns_of(router);
  if (!columns.row.defined()) columns.drop_padding();
  record.selected = columns.keep(record.selected);
  if (record.selected.defined()) record.selected = record.selected.to(at::kLong);
  record.weights = columns.keep(record.weights);
  // What stands under no expert multiplies nothing.
  if (record.weights.defined()) record.weights = record.weights.masked_fill(record.selected.eq(-1), 0);
  record.margins = columns.keep(record.margins);
  record.scores = columns.keep(record.scores);
  record.input = columns.keep(record.input);
  if (router.logits_of_first_tokens) {
    record.logits = record.logits.narrow(0, 0, std::min(record.logits.size(0), columns.num_kept));
  } else {
    record.logits = columns.keep(record.logits);
  }
  router.first_slot = columns.keep(router.first_slot);
  record.row = columns.row;
  record.position = columns.position;
  record.token_id = columns.token_id;
}

}  // namespace moetap::plugin
