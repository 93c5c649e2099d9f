#include "plugin/capture/pending_forward.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <map>

#include "analysis/routers/router_sums.h"
#include "analysis/routers/transition_sums.h"

namespace moetap::plugin {
namespace {

int64_t bytes_of(const at::Tensor& tensor) {
  return tensor.defined() ? static_cast<int64_t>(tensor.nbytes()) : 0;
}

/// The columns of a group without the rows of padding. CPU tensors.
struct Columns {
  at::Tensor kept;  // int64 [T], places in the call; undefined: all
  int64_t num_kept = 0;
  at::Tensor row, position, token_id;
};

at::Tensor keep(const at::Tensor& tensor, const Columns& columns) {
  return tensor.defined() && columns.kept.defined() ? tensor.index_select(0, columns.kept) : tensor;
}

Columns make_columns(const TokenGroup& group) {
  Columns columns;
  columns.num_kept = group.num_tokens;
  if (group.valid.defined()) {
    columns.kept = group.valid.nonzero().squeeze(1);
    columns.num_kept = columns.kept.numel();
  }
  columns.row = keep(row_column(group.attribution, group.num_tokens), columns);
  columns.position = keep(position_column(group.attribution, group.num_tokens), columns);
  columns.token_id = keep(
      group.token_ids.defined() ? group.token_ids.to(at::kInt) : at::full({group.num_tokens}, -1, at::kInt), columns);
  return columns;
}

/// Perhaps on two devices.
bool see_same_tokens(const TokenGroup& a, const TokenGroup& b) {
  return a.text == b.text && a.num_tokens == b.num_tokens && a.attribution == b.attribution;
}

/// Then the columns of its tokens are needed.
bool tells_of_single_tokens(const PendingRouter& router) {
  return router.first_slot.defined() || router.record.selected.defined() || router.record.logits.defined();
}

}  // namespace

bool comes_before(const PendingRouter& known, const PendingRouter& router, const ModelDescription& model) {
  const auto component = [&](const PendingRouter& of) -> const std::string& {
    return model.hooks.at(static_cast<size_t>(of.record.hook)).component;
  };
  return known.group == router.group && known.record.hook < router.record.hook &&
         known.record.call == router.record.call && component(known) == component(router);
}

CustomValue custom_value(const at::Tensor& scalar) {
  if (scalar.scalar_type() == at::kBool) {
    return scalar.item<bool>();
  }
  if (at::isIntegralType(scalar.scalar_type(), /*includeBool=*/false)) {
    return scalar.item<int64_t>();
  }
  return scalar.item<double>();
}

void PendingForward::sort_routers() {
  // Forks report in any order; a loop's calls are numbered.
  std::stable_sort(routers.begin(), routers.end(), [](const PendingRouter& a, const PendingRouter& b) {
    return std::pair(a.record.hook, a.record.call) < std::pair(b.record.hook, b.record.call);
  });
}

template <typename Visit>
void PendingForward::for_each_transition(const ModelDescription& model, const Visit& visit) {
  std::map<std::pair<std::string, int64_t>, PendingRouter*> previous;  // of a component, in a call
  for (auto& router : routers) {
    const auto& component = model.hooks.at(static_cast<size_t>(router.record.hook)).component;
    PendingRouter*& before = previous[{component, router.record.call}];
    if (before != nullptr && see_same_tokens(*before->group, *router.group)) visit(*before, router);
    before = &router;
  }
}

void PendingForward::start_copies() {
  sort_routers();
  for_each_transition(*record.model, [](PendingRouter& before, PendingRouter& router) {
    if (!before.first_slot_stays && !router.first_slot_stays) return;  // counted on the host
    if (router.transition_from == before.record.hook) return;
    if (before.group->device != router.group->device) {
      before.first_slot_stays = router.first_slot_stays = false;
      return;
    }
    // The routers reported in another order than they stand in the model.
    router.transition_from = before.record.hook;
    router.transition_counts =
        analysis::observe_transition(before.first_slot.to(at::kLong), router.first_slot.to(at::kLong),
                                     router.group->rows, before.record.sums.num_experts, router.record.sums.num_experts)
            .counts;
  });
  const auto copy = [this](at::Tensor& tensor) { tensor = copies->copy(tensor); };
  std::vector<TokenGroup*> with_columns;
  for (auto& router : routers) {
    for (at::Tensor* tensor :
         {&router.record.sums.words, &router.record.selected, &router.record.weights, &router.record.logits,
          &router.record.scores, &router.out_of_range, &router.transition_counts}) {
      copy(*tensor);
    }
    if (router.first_slot_stays) {
      router.first_slot = at::Tensor();
    } else {
      copy(router.first_slot);
    }
    if (!tells_of_single_tokens(router)) continue;
    if (std::find(with_columns.begin(), with_columns.end(), router.group.get()) == with_columns.end()) {
      with_columns.push_back(router.group.get());
      copy(router.group->valid);
      copy(router.group->token_ids);
    }
  }
  for (auto& value : values) {
    copy(value.value);
  }
  copy(text_tokens);
  copies->finish_enqueuing();
}

int64_t PendingForward::bytes() const {
  constexpr int64_t kBytesOfARecord = 1024;  // about what a record holds besides its tensors
  int64_t bytes = 0;
  for (const auto& router : routers) {
    const auto& record = router.record;
    for (const at::Tensor* tensor :
         {&record.sums.words, &record.selected, &record.weights, &record.logits, &record.scores, &router.first_slot}) {
      bytes += bytes_of(*tensor);
    }
  }
  // A block has the size of the largest forward so far, whatever this one uses of it.
  return kBytesOfARecord + std::max(bytes, copies->host_bytes());
}

ForwardRecord PendingForward::finish() {
  copies->wait();
  ForwardRecord finished = std::move(record);
  for (const auto& value : values) {
    finished.custom[value.place].insert_or_assign(value.name, custom_value(value.value));
  }
  std::map<const TokenGroup*, Columns> columns_of;
  for (auto& router : routers) {
    const TokenGroup& group = *router.group;
    auto& record = router.record;
    analysis::normalize(record.sums);
    record.attributed = group.attribution.attributed;
    record.text = group.attribution.text;
    finished.out_of_range += router.out_of_range.defined() ? router.out_of_range.item<int64_t>()
                                                           : record.sums.counter(analysis::kInvalidIds);
    finished.tokens = std::max(finished.tokens, record.sums.tokens());
    if (!tells_of_single_tokens(router)) continue;
    auto& columns = columns_of[&group];
    if (!columns.row.defined()) {
      columns = make_columns(group);
    }
    record.selected = keep(record.selected, columns);
    if (record.selected.defined()) record.selected = record.selected.to(at::kLong);
    record.weights = keep(record.weights, columns);
    record.scores = keep(record.scores, columns);
    if (group.probed.defined() && record.logits.defined()) {
      record.logits = record.logits.narrow(0, 0, std::min(record.logits.size(0), columns.num_kept));
      probed_tokens->add(record.hook, record.logits.size(0));
    } else {
      record.logits = keep(record.logits, columns);
    }
    router.first_slot = keep(router.first_slot, columns);
    record.row = columns.row;
    record.position = columns.position;
    record.token_id = columns.token_id;
  }
  if (!routers.empty()) add_transitions(finished);
  for (auto& router : routers) {
    finished.routers.push_back(std::move(router.record));
  }
  if (text_tokens.defined()) {
    finished.tokens = text_tokens.item<int64_t>();
  }
  routers.clear();
  values.clear();
  return finished;
}

void PendingForward::add_transitions(ForwardRecord& finished) {
  for_each_transition(*finished.model, [&](PendingRouter& before, PendingRouter& router) {
    const int64_t from = before.record.sums.num_experts, to = router.record.sums.num_experts;
    const bool is_counted = router.transition_from == before.record.hook;
    if (!is_counted && !(before.first_slot.defined() && router.first_slot.defined())) return;  // of replays
    finished.transitions.push_back({before.record.hook, router.record.hook,
                                    is_counted
                                        ? analysis::TransitionSums{from, to, router.transition_counts}
                                        : analysis::observe_transition(before.first_slot.to(at::kLong),
                                                                       router.first_slot.to(at::kLong), {}, from, to)});
  });
}

}  // namespace moetap::plugin
