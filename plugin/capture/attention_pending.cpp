#include "plugin/capture/attention_pending.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <unordered_map>
#include <utility>

#include "analysis/attention/attention_sums.h"
#include "analysis/numbers/fixed_point.h"
#include "plugin/capture/attention_device_sums.h"
#include "plugin/records/attention_record.h"

namespace moetap::plugin {
namespace {

/// Where the lines of an attention call lie: columns [N] without padding, and the line of each.
struct Lines {
  at::Tensor row;       // int64 [T], the sample's place in the forward; -1 unknown
  at::Tensor position;  // int32 [T], as RouterRecord::position
  at::Tensor line;      // int64 [T]
};

Lines lines_of(const MeasuredAttention& attention) {
  const int64_t num_lines = attention.rows.num_lines();
  const at::Tensor line = attention.rows.position.ge(0).nonzero().squeeze(1);
  const Attribution& attribution = attention.tokens->attribution;
  return {row_column(attribution, num_lines).index_select(0, line),
          position_column(attribution, num_lines).index_select(0, line), line};
}

/// int64 [T]: the line of each token of a router call; empty: the two did not see the same tokens.
std::optional<at::Tensor> lines_of_tokens(const RouterRecord& router, const Lines& lines) {
  if (!router.selected.defined() || router.row.numel() != lines.line.numel()) return std::nullopt;
  if (at::equal(router.row, lines.row) && at::equal(router.position, lines.position)) return lines.line;
  const auto key = [](int64_t row, int32_t position) { return (row << 32) ^ static_cast<uint32_t>(position); };
  const int64_t num_tokens = lines.line.numel();
  const auto* row = lines.row.const_data_ptr<int64_t>();
  const auto* position = lines.position.const_data_ptr<int32_t>();
  const auto* line = lines.line.const_data_ptr<int64_t>();
  std::unordered_map<int64_t, int64_t> line_of_token;
  for (int64_t i = 0; i < num_tokens; ++i) {
    if (!line_of_token.emplace(key(row[i], position[i]), line[i]).second) return std::nullopt;
  }
  at::Tensor found = at::empty({num_tokens}, at::kLong);
  const at::Tensor rows = router.row.contiguous(), positions = router.position.contiguous();
  for (int64_t i = 0; i < num_tokens; ++i) {
    const auto place =
        line_of_token.find(key(rows.const_data_ptr<int64_t>()[i], positions.const_data_ptr<int32_t>()[i]));
    if (place == line_of_token.end()) return std::nullopt;
    found.mutable_data_ptr<int64_t>()[i] = place->second;
  }
  return found;
}

/// [num_lines, K]: the values of tokens [T, K] on their lines, `fill` elsewhere.
at::Tensor on_lines(const at::Tensor& values, const at::Tensor& line, int64_t num_lines, double fill) {
  if (!values.defined()) return values;
  return at::full({num_lines, values.size(1)}, fill, values.options()).index_copy_(0, line, values);
}

std::vector<AttentionMatrixRecord> matrices_of(const MeasuredAttention& attention, const at::Tensor& row) {
  std::vector<AttentionMatrixRecord> matrices;
  const analysis::AttentionRows& rows = attention.rows;
  if (!rows.matrix.defined()) return matrices;
  const at::Tensor positions = rows.position.reshape({rows.num_sequences, rows.num_queries});
  const at::Tensor sample = row.reshape({rows.num_sequences, rows.num_queries});
  for (int64_t sequence = 0; sequence < rows.num_sequences; ++sequence) {
    const at::Tensor queries = positions.select(0, sequence).ge(0).nonzero().squeeze(1);
    if (queries.numel() == 0) continue;
    const at::Tensor keys = attention.key_position.select(0, sequence).ge(0).nonzero().squeeze(1);
    const auto first = queries.select(0, 0).item<int64_t>();
    matrices.push_back({attention.tokens->attribution.attributed ? sample[sequence][first].item<int64_t>() : -1,
                        sequence, positions[sequence][first].item<int64_t>(),
                        rows.matrix.select(0, sequence).index_select(0, queries).index_select(1, keys)});
  }
  return matrices;
}

/// The values of a call's rows, without padding, in the columns that files have.
void keep_values(const analysis::AttentionRows& rows, const Lines& lines, AttentionRecord& record) {
  std::vector<int64_t> columns;
  for (const analysis::AttentionColumn& column : analysis::attention_columns(rows.num_regions, rows.self)) {
    record.value_names.push_back(column.name);
    columns.push_back(column.column);
  }
  record.values = rows.values.index_select(0, lines.line).index_select(1, at::tensor(columns, at::kLong));
  record.row = lines.row;
  record.position = lines.position;
}

/// Throws c10::Error where replays may have added more than words hold: see Note [Exact sums].
void check_terms(const ForwardRecord& record, const MeasuredAttention& call) {
  if (record.replays == 0) return;
  const int64_t terms = record.replays * call.rows.num_lines() * call.terms_of_row;
  TORCH_CHECK(terms <= analysis::kMaxTermsPerCall, "at most ", analysis::kMaxTermsPerCall / call.terms_of_row,
              " queries of an attention layer may lie between two flushes, got ", terms / call.terms_of_row,
              " in replays of a graph");
}

}  // namespace

std::string misfit_of(const MeasuredAttention& measured) {
  const auto rows = measured.improbable_rows.item<int64_t>();
  if (rows == 0) return "";
  return fmt::format("in {} of {} rows one is negative or they sum to more than 1", rows, measured.rows.num_lines());
}

void PendingAttention::add(MeasuredAttention attention) {
  const auto stands_before = [](const MeasuredAttention& a, const MeasuredAttention& b) {
    return std::pair(a.hook, a.call) < std::pair(b.hook, b.call);
  };
  const auto place = std::upper_bound(calls_.begin(), calls_.end(), attention, stands_before);
  calls_.insert(place, std::move(attention));
}

void PendingAttention::add_on_devices(const PendingRouters* routers, int64_t num_samples, HostCopies& copies) {
  const auto is_on_cpu = [](const MeasuredAttention& call) { return call.tokens->device.is_cpu(); };
  if (std::all_of(calls_.begin(), calls_.end(), is_on_cpu)) return;
  std::vector<MeasuredAttention*> calls;
  for (MeasuredAttention& call : calls_) calls.push_back(&call);
  const std::vector<RouterOfForward> reported = routers == nullptr ? std::vector<RouterOfForward>() : routers->calls();
  plugin::add_on_devices({*model_, reported, num_samples, keep_values_}, copies, std::move(calls));
}

bool PendingAttention::add_in_graph(const std::vector<RouterOfForward>& routers, GraphReplays& replays) {
  std::vector<MeasuredAttention*> calls;
  for (MeasuredAttention& call : calls_) calls.push_back(&call);
  const bool all_known = plugin::add_in_graph({*model_, routers}, replays, std::move(calls));
  // Tokens and samples of replays are not known.
  const auto tokens = std::make_shared<TokenGroup>();
  tokens->attribution.attributed = false;
  for (MeasuredAttention& call : calls_) call.tokens = tokens;
  return all_known;
}

void PendingAttention::visit_tensors(Visit visit) {
  for (MeasuredAttention& call : calls_) {
    analysis::AttentionRows& rows = call.rows;
    for (at::Tensor* tensor : {&rows.line, &rows.values, &rows.bins, &rows.region, &rows.position, &rows.num_keys,
                               &rows.length, &rows.weight, &rows.head_high, &rows.head_low, &rows.head_max_score,
                               &rows.matrix, &call.key_position, &call.improbable_rows, &call.sums.words}) {
      visit(*tensor);
    }
    for (SumsOfExperts& experts : call.by_expert) visit(experts.sums.words);
  }
}

void PendingAttention::withhold(ForwardRecord& record) {
  for (const MeasuredAttention& call : calls_) {
    if (!call.improbable_rows.defined()) continue;
    analysis::RouterVerdict verdict;
    const std::string misfit = misfit_of(call);
    if (!misfit.empty()) verdict[analysis::kProbabilitiesColumn] = misfit;
    checks_->came_back(call.hook, call.rows.num_lines(), verdict);
  }
  std::erase_if(calls_, [this](const MeasuredAttention& call) { return checks_->withheld(call.hook) != 0; });
  record.unverified = checks_->untold();
}

bool PendingAttention::take_by_expert(const RouterRecord& router, ForwardRecord& record) {
  for (size_t place = 0; place < calls_.size(); ++place) {
    for (SumsOfExperts& experts : calls_[place].by_expert) {
      if (experts.router_hook != router.hook || experts.router_call != router.call) continue;
      // Else the weights were withheld since: what they have entered is left out.
      if (record.replays > 0 || experts.has_weights == router.weights.defined()) {
        normalize(experts.sums);
        record.attention[place].experts.push_back({router.hook, experts.sums, {}});
      }
      return true;
    }
  }
  return false;
}

void PendingAttention::finish(ForwardRecord& record) {
  withhold(record);
  std::vector<std::optional<Lines>> lines;  // empty: the device has added the call up
  for (const MeasuredAttention& call : calls_) {
    const analysis::AttentionRows& rows = call.rows;
    const bool attributed = call.tokens->attribution.attributed;
    const auto num_samples = static_cast<int64_t>(record.samples.size());
    const bool by_sample = attributed && call.tokens->attribution.num_rows == num_samples;
    const at::Tensor row =
        by_sample ? row_column(call.tokens->attribution, rows.num_lines()) : at::zeros({rows.num_lines()}, at::kLong);
    AttentionRecord measured;
    measured.hook = call.hook;
    measured.call = call.call;
    measured.attributed = by_sample;
    measured.num_key_heads = call.num_key_heads;
    if (call.sums.defined()) {
      measured.sums = call.sums;
      check_terms(record, call);
      normalize(measured.sums);
      lines.push_back(std::nullopt);
    } else {
      measured.sums = analysis::empty_attention_sums(rows.num_heads, rows.num_regions, rows.self, /*num_experts=*/0,
                                                     by_sample ? num_samples : 1);
      add_rows(measured.sums, rows, row);
      lines.push_back(lines_of(call));
    }
    measured.matrices = matrices_of(call, by_sample ? row : at::full_like(row, -1));
    if (keep_values_ && record.replays == 0) keep_values(rows, lines.back() ? *lines.back() : lines_of(call), measured);
    record.attention.push_back(std::move(measured));
  }
  for (const RouterRecord& router : record.routers) {
    if (take_by_expert(router, record)) continue;
    const hooks::HookPoint& of_router = model_->hooks.at(static_cast<size_t>(router.hook));
    // Twice from the last to the first: the same layer comes first.
    for (const bool same_layer : {true, false}) {
      std::optional<at::Tensor> found;
      size_t place = calls_.size();
      while (!found && place > 0) {
        --place;
        const MeasuredAttention& call = calls_[place];
        const hooks::HookPoint& hook = hook_of(call);
        if (call.hook > router.hook || call.call > router.call || hook.component != of_router.component) continue;
        if (same_layer && hook.layer != of_router.layer) continue;
        if (lines[place]) found = lines_of_tokens(router, *lines[place]);
      }
      if (!found) continue;
      const analysis::AttentionRows& rows = calls_[place].rows;
      ExpertAttentionRecord experts;
      experts.router_hook = router.hook;
      const int64_t num_experts = router.sums.num_experts;
      if (by_expert_ == ByExpert::kRowsIfShorter &&
          analysis::are_shorter_than_sums(found->numel(), router.selected.size(1), rows.num_regions, num_experts)) {
        experts.rows = analysis::expert_rows(rows, num_experts, *found, router.selected, router.weights);
      } else {
        experts.sums = analysis::empty_attention_sums(rows.num_heads, rows.num_regions, rows.self, num_experts,
                                                      /*num_rows=*/1);
        add_experts(experts.sums, rows, at::zeros({rows.num_lines()}, at::kLong),
                    on_lines(router.selected, *found, rows.num_lines(), -1),
                    on_lines(router.weights, *found, rows.num_lines(), 0));
      }
      record.attention[place].experts.push_back(std::move(experts));
      break;
    }
  }
  for (MeasuredAttention& call : calls_) analysis::recycle(std::move(call.rows));
  calls_.clear();
}

}  // namespace moetap::plugin
