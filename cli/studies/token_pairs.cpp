#include "cli/studies/token_pairs.h"

#include <algorithm>
#include <tuple>

namespace moetap::cli {
namespace {

struct Row {
  int32_t position = 0;
  int64_t turn = 0;  // how often the position came before
  int64_t row = 0;

  auto key() const { return std::tie(position, turn); }
};

std::vector<Row> rows_of(const studies::TokenBatch& batch, int64_t begin, int64_t end) {
  std::vector<Row> rows;
  for (int64_t t = begin; t < end; ++t) rows.push_back({batch.position[static_cast<size_t>(t)], 0, t});
  std::stable_sort(rows.begin(), rows.end(), [](const Row& a, const Row& b) { return a.position < b.position; });
  for (size_t i = 1; i < rows.size(); ++i) {
    if (rows[i].position == rows[i - 1].position) rows[i].turn = rows[i - 1].turn + 1;
  }
  return rows;
}

bool are_other_tokens(const studies::TokenBatch& a, int64_t row_a, const studies::TokenBatch& b, int64_t row_b) {
  if (a.token_id.empty() || b.token_id.empty()) return false;
  const int32_t id_a = a.token_id[static_cast<size_t>(row_a)], id_b = b.token_id[static_cast<size_t>(row_b)];
  return id_a >= 0 && id_b >= 0 && id_a != id_b;
}

template <typename Value>
std::vector<Value> gathered(std::span<const Value> values, int64_t width, const std::vector<PairedRow>& rows, bool is_a,
                            Value missing) {
  std::vector<Value> out;
  if (values.empty()) return out;
  out.reserve(rows.size() * static_cast<size_t>(width));
  for (const PairedRow& paired : rows) {
    const int64_t row = is_a ? paired.a : paired.b;
    for (int64_t i = 0; i < width; ++i) {
      out.push_back(row < 0 ? missing : values[static_cast<size_t>(row * width + i)]);
    }
  }
  return out;
}

}  // namespace

std::vector<PairedRow> pair_rows(const studies::TokenBatch& a, const std::vector<int64_t>& samples_a,
                                 const studies::TokenBatch& b, const std::vector<int64_t>& samples_b) {
  std::vector<PairedRow> paired;
  for (size_t sample = 0; sample + 1 < samples_a.size(); ++sample) {
    const std::vector<Row> of_a = rows_of(a, samples_a[sample], samples_a[sample + 1]);
    const std::vector<Row> of_b = rows_of(b, samples_b[sample], samples_b[sample + 1]);
    int32_t source = 0;
    if (!of_a.empty()) {
      source = a.source[static_cast<size_t>(of_a.front().row)];
    } else if (!of_b.empty()) {
      source = b.source[static_cast<size_t>(of_b.front().row)];
    }
    for (size_t i = 0, j = 0; i < of_a.size() || j < of_b.size();) {
      const bool a_first = j == of_b.size() || (i < of_a.size() && of_a[i].key() < of_b[j].key());
      const bool b_first = i == of_a.size() || (j < of_b.size() && of_b[j].key() < of_a[i].key());
      PairedRow row{-1, -1, source, -1};
      if (!b_first) row.a = of_a[i++].row;
      if (!a_first) row.b = of_b[j++].row;
      if (row.a >= 0 && row.b >= 0 && are_other_tokens(a, row.a, b, row.b)) {
        paired.push_back({row.a, -1, source, row.b});
        row.a = -1;
      }
      paired.push_back(row);
    }
  }
  return paired;
}

const studies::TokenBatch& GatheredBatch::gather(const studies::TokenBatch& own, const studies::TokenBatch& other,
                                                 const std::vector<PairedRow>& rows, bool is_a) {
  const size_t n = rows.size();
  buffer_.resize_labels(n);
  buffer_.group.resize(own.group.empty() ? 0 : n);
  buffer_.valid.resize(own.valid.empty() && other.valid.empty() ? 0 : n);
  for (size_t t = 0; t < n; ++t) {
    const int64_t row = is_a ? rows[t].a : rows[t].b;
    const studies::TokenBatch& labels = row >= 0 ? own : other;
    const auto from = static_cast<size_t>(row >= 0 ? row : (is_a ? rows[t].b : rows[t].a));
    buffer_.sample[t] = labels.sample[from];
    buffer_.source[t] = rows[t].source;
    buffer_.forward[t] = labels.forward[from];
    buffer_.position[t] = labels.position[from];
    buffer_.step[t] = labels.step[from];
    const bool has_other = !is_a && rows[t].other_b >= 0;
    buffer_.token_id[t] = has_other ? own.token_id[static_cast<size_t>(rows[t].other_b)] : labels.token_id[from];
    buffer_.phase[t] = labels.phase[from];
    if (!buffer_.valid.empty()) buffer_.valid[t] = labels.is_valid(static_cast<int64_t>(from)) ? 1 : 0;
    if (!buffer_.group.empty()) buffer_.group[t] = row >= 0 ? own.group[from] : -1;
  }
  studies::ComponentShape shape;
  buffer_.layers.resize(own.layers.size());
  for (size_t l = 0; l < own.layers.size(); ++l) {
    const studies::LayerTokens& from = own.layers[l];
    LayerBuffer& to = buffer_.layers[l];
    studies::LayerShape& of = shape.layers.emplace_back();
    of.num_experts = from.num_experts;
    of.top_k = from.top_k;
    to.ids = gathered<int32_t>(from.ids, from.top_k, rows, is_a, -1);
    to.weights = gathered<double>(from.weights, from.top_k, rows, is_a, 0);
    to.gates = gathered<double>(from.gates, from.top_k, rows, is_a, 0);
    to.scores = gathered<double>(from.scores, from.num_experts, rows, is_a, 0);
    to.logits = gathered<double>(from.logits, from.num_experts, rows, is_a, 0);
    to.foreign_ids = from.foreign_ids;
    to.seen.resize(n);
    for (size_t t = 0; t < n; ++t) {
      const int64_t row = is_a ? rows[t].a : rows[t].b;
      to.seen[t] = row >= 0 && from.has_seen(row) ? 1 : 0;
    }
  }
  return buffer_.view(shape, own.first_token, static_cast<int64_t>(n));
}

}  // namespace moetap::cli
