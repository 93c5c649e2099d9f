#include "plugin/journal/logged_forward.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <span>
#include <stdexcept>

#include "analysis/routers/slot_ranking.h"
#include "plugin/formats/byte_stream.h"

namespace moetap::plugin {
namespace {

// What the router logged by token, split by the parts that it goes to.
struct TokenLists {
  std::vector<std::vector<int32_t>> selected;
  std::vector<std::vector<float>> margins;
};

at::Tensor margins_of(const RouterRecord& router) {
  analysis::RouterCall call;
  call.selected = router.selected;
  call.weights = router.weights;
  call.num_experts = router.sums.num_experts;
  const at::Tensor margins = analysis::token_margin(call);
  return margins.defined() ? margins.contiguous() : margins;
}

// part_of_row: the part that takes the tokens of a row; margins go to `margin_rows` only, if it is not empty.
TokenLists split_tokens(const RouterRecord& router, size_t num_parts, bool by_row, bool first_row_margins_only) {
  TokenLists lists{std::vector<std::vector<int32_t>>(num_parts), std::vector<std::vector<float>>(num_parts)};
  if (!router.selected.defined()) return lists;
  const at::Tensor selected = router.selected.contiguous();
  const at::Tensor margins = margins_of(router);
  const at::Tensor rows = router.row.contiguous();
  const int64_t num_tokens = selected.size(0);
  const int64_t top_k = selected.size(1);
  const auto* ids = selected.const_data_ptr<int64_t>();
  const auto* row = rows.const_data_ptr<int64_t>();
  const float* margin = margins.defined() ? margins.const_data_ptr<float>() : nullptr;
  for (int64_t token = 0; token < num_tokens; ++token) {
    const size_t part = by_row ? static_cast<size_t>(row[token]) : 0;
    if (by_row && (row[token] < 0 || part >= num_parts)) continue;
    lists.selected[part].insert(lists.selected[part].end(), ids + token * top_k, ids + (token + 1) * top_k);
    if (margin != nullptr && !(first_row_margins_only && row[token] > 0)) lists.margins[part].push_back(margin[token]);
  }
  return lists;
}

// A router of a loop reports several times in a forward: its calls become one.
void add_router(std::vector<LoggedRouter>& routers, LoggedRouter router) {
  const auto same = std::find_if(routers.begin(), routers.end(),
                                 [&](const LoggedRouter& known) { return known.layer == router.layer; });
  if (same == routers.end()) {
    routers.push_back(std::move(router));
    return;
  }
  add_sums(same->sums, router.sums);
  same->selected.insert(same->selected.end(), router.selected.begin(), router.selected.end());
  same->margins.insert(same->margins.end(), router.margins.begin(), router.margins.end());
}

analysis::RouterSums without_pairs(const analysis::RouterSums& sums) {
  if (!sums.has_pairs) return sums;
  analysis::RouterSums rows = sums;
  rows.has_pairs = false;
  rows.words = sums.words.narrow(0, 0, sums.layout().pairs_begin());
  return rows;
}

// Pairs are absent for one slot and must be there for more.
void set_top_k(analysis::RouterSums& sums, int64_t top_k, bool has_pairs) {
  sums.top_k = top_k;
  if (sums.has_pairs || !has_pairs) return;
  sums.has_pairs = true;
  const at::Tensor rows = sums.words;
  sums.words = at::zeros({sums.layout().words()}, at::kLong);
  sums.words.narrow(0, 0, rows.numel()).copy_(rows);
}

void encode(ByteWriter& bytes, const analysis::RouterSums& sums) {
  bytes.count(static_cast<uint64_t>(sums.num_experts));
  bytes.count(static_cast<uint64_t>(sums.top_k));
  bytes.count(static_cast<uint64_t>(sums.num_rows));
  bytes.count(sums.has_pairs);
  const at::Tensor words = sums.words.contiguous();
  bytes.count(static_cast<uint64_t>(words.numel()));
  bytes.sparse({words.const_data_ptr<int64_t>(), static_cast<size_t>(words.numel())});
}

analysis::RouterSums decode_sums(ByteReader& bytes) {
  analysis::RouterSums sums;
  sums.num_experts = static_cast<int64_t>(bytes.count());
  sums.top_k = static_cast<int64_t>(bytes.count());
  sums.num_rows = static_cast<int64_t>(bytes.count());
  sums.has_pairs = bytes.count() != 0;
  const auto words = static_cast<int64_t>(bytes.count());
  const auto expected = sums.has_pairs ? sums.layout().words() : sums.layout().pairs_begin();
  if (words != expected) throw std::runtime_error("a frame of the journal holds sums of a wrong size");
  sums.words = at::empty({words}, at::kLong);
  bytes.sparse({sums.words.mutable_data_ptr<int64_t>(), static_cast<size_t>(words)});
  return sums;
}

void encode(ByteWriter& bytes, const std::vector<LoggedRouter>& routers) {
  bytes.count(routers.size());
  for (const LoggedRouter& router : routers) {
    bytes.count(router.layer);
    encode(bytes, router.sums);
    bytes.numbers(router.selected);
    bytes.reals(router.margins);
  }
}

std::vector<LoggedRouter> decode_routers(ByteReader& bytes) {
  std::vector<LoggedRouter> routers;
  for (uint64_t left = bytes.count(); left > 0; --left) {
    LoggedRouter router;
    router.layer = bytes.count();
    router.sums = decode_sums(bytes);
    router.selected = bytes.numbers();
    router.margins = bytes.reals();
    routers.push_back(std::move(router));
  }
  return routers;
}

LogPart decode_head(ByteReader& bytes) {
  LogPart part;
  part.previous = bytes.number();
  part.shared = bytes.number();
  for (uint64_t left = bytes.count(); left > 0; --left) part.samples.push_back(bytes.number());
  part.values_only = bytes.count() != 0;
  return part;
}

enum ValueKind : uint64_t { kBool, kInt, kDouble };

void encode(ByteWriter& bytes, const CustomValue& value) {
  bytes.count(value.index());
  if (const auto* real = std::get_if<double>(&value)) {
    bytes.real(*real);
  } else {
    bytes.number(std::holds_alternative<bool>(value) ? std::get<bool>(value) : std::get<int64_t>(value));
  }
}

CustomValue decode_value(ByteReader& bytes) {
  switch (bytes.count()) {
    case kBool:
      return bytes.number() != 0;
    case kInt:
      return bytes.number();
    default:
      return bytes.real();
  }
}

}  // namespace

void add_sums(analysis::RouterSums& into, const analysis::RouterSums& from) {
  if (!into.defined() || !from.defined()) {
    merge(into, from);
    return;
  }
  analysis::RouterSums addend = from;
  if (into.num_rows != addend.num_rows) {
    into = sum_rows(into);
    addend = sum_rows(addend);
  }
  const int64_t top_k = std::max(into.top_k, addend.top_k);
  const bool has_pairs = into.has_pairs || addend.has_pairs;
  set_top_k(into, top_k, has_pairs);
  set_top_k(addend, top_k, has_pairs);
  merge(into, addend);
}

LoggedForward log_forward(const ForwardRecord& record, LayerTable& layers, const Config& config) {
  LoggedForward logged;
  logged.summary.forwards = record.num_forwards();
  logged.summary.generation = record.generation;
  const bool by_row = config.log_entries == LogEntries::kRow;
  const size_t num_parts = record.replays > 0 ? 0 : by_row ? record.samples.size() : 1;
  for (size_t i = 0; i < num_parts; ++i) {
    LogPart part;
    part.samples = by_row ? std::vector<int64_t>{record.samples[i]} : record.samples;
    part.values_only = record.values_only;
    part.duration_s = record.duration_s / static_cast<double>(num_parts);
    part.custom = record.custom;
    logged.parts.push_back(std::move(part));
  }
  for (const RouterRecord& router : record.routers) {
    const size_t layer = layers.place(*record.model, router.hook, router.sums.num_experts);
    add_router(logged.summary.routers, {layer, sum_rows(router.sums), {}, {}});
    if (num_parts == 0) continue;
    const bool split = by_row && router.attributed && router.sums.num_rows == static_cast<int64_t>(num_parts);
    TokenLists lists = config.log_per_token ? split_tokens(router, split ? num_parts : 1, split && num_parts > 1,
                                                           !by_row && router.attributed)
                                            : TokenLists{};
    lists.selected.resize(num_parts);
    lists.margins.resize(num_parts);
    if (!split && num_parts > 1) {
      add_router(logged.shared.routers, {layer, sum_rows(without_pairs(router.sums)), std::move(lists.selected[0]),
                                         std::move(lists.margins[0])});
      continue;
    }
    for (size_t i = 0; i < num_parts; ++i) {
      const analysis::RouterSums sums =
          by_row ? select_row(router.sums, static_cast<int64_t>(i)) : without_pairs(router.sums);
      add_router(logged.parts[i].routers, {layer, sums, std::move(lists.selected[i]), std::move(lists.margins[i])});
    }
  }
  for (const TransitionRecord& transition : record.transitions) {
    logged.summary.transitions.push_back(
        {layers.place(*record.model, transition.from_hook, transition.sums.num_experts_from),
         layers.place(*record.model, transition.to_hook, transition.sums.num_experts_to), transition.sums});
  }
  return logged;
}

std::string encode(const LogPart& part) {
  ByteWriter bytes;
  bytes.number(part.previous);
  bytes.number(part.shared);
  bytes.count(part.samples.size());
  for (const int64_t sample : part.samples) bytes.number(sample);
  bytes.count(part.values_only);
  bytes.real(part.duration_s);
  encode(bytes, part.routers);
  bytes.count(part.custom.size());
  for (const auto& [place, values] : part.custom) {
    bytes.text(place.first);
    bytes.text(place.second);
    bytes.count(values.size());
    for (const auto& [name, value] : values) {
      bytes.text(name);
      encode(bytes, value);
    }
  }
  return bytes.take();
}

LogPart decode_log_part_head(std::string_view encoded) {
  ByteReader bytes(encoded);
  return decode_head(bytes);
}

LogPart decode_log_part(std::string_view encoded) {
  ByteReader bytes(encoded);
  LogPart part = decode_head(bytes);
  part.duration_s = bytes.real();
  part.routers = decode_routers(bytes);
  for (uint64_t left = bytes.count(); left > 0; --left) {
    std::string component = bytes.text();
    std::string layer = bytes.text();
    auto& values = part.custom[{std::move(component), std::move(layer)}];
    for (uint64_t values_left = bytes.count(); values_left > 0; --values_left) {
      const std::string name = bytes.text();
      values[name] = decode_value(bytes);
    }
  }
  return part;
}

std::string encode(const SummaryPart& part) {
  ByteWriter bytes;
  bytes.count(static_cast<uint64_t>(part.forwards));
  bytes.count(part.generation);
  encode(bytes, part.routers);
  bytes.count(part.transitions.size());
  for (const auto& transition : part.transitions) {
    bytes.count(transition.from);
    bytes.count(transition.to);
    bytes.count(static_cast<uint64_t>(transition.sums.num_experts_from));
    bytes.count(static_cast<uint64_t>(transition.sums.num_experts_to));
    const at::Tensor counts = transition.sums.counts.contiguous();
    bytes.sparse({counts.const_data_ptr<int64_t>(), static_cast<size_t>(counts.numel())});
  }
  return bytes.take();
}

SummaryPart decode_summary_part(std::string_view encoded) {
  ByteReader bytes(encoded);
  SummaryPart part;
  part.forwards = static_cast<int64_t>(bytes.count());
  part.generation = bytes.count() != 0;
  part.routers = decode_routers(bytes);
  for (uint64_t left = bytes.count(); left > 0; --left) {
    SummaryPart::Transition transition;
    transition.from = bytes.count();
    transition.to = bytes.count();
    auto& sums = transition.sums;
    sums.num_experts_from = static_cast<int64_t>(bytes.count());
    sums.num_experts_to = static_cast<int64_t>(bytes.count());
    sums.counts = at::empty({sums.num_experts_from, sums.num_experts_to}, at::kLong);
    bytes.sparse({sums.counts.mutable_data_ptr<int64_t>(), static_cast<size_t>(sums.counts.numel())});
    part.transitions.push_back(std::move(transition));
  }
  return part;
}

}  // namespace moetap::plugin
