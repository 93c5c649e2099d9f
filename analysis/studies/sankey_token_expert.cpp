#include <algorithm>
#include <cstddef>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "analysis/studies/sample_queries.h"
#include "analysis/studies/sentence_numbers.h"

namespace moetap::analysis::studies {
namespace {

constexpr int64_t kNotebookLength = 140;

/// Tokens of a sample → their experts → the attention that the experts' tokens receive. Recommended: an expert's
/// outflow is the sum of g times what the token receives, which is 1 on average, so it has the unit of the inflow.
/// Notebook: the mean received by the expert's tokens, of the first 140 tokens.
class SankeyTokenExpert : public SampleStudy {
 public:
  SankeyTokenExpert(const ComponentShape& shape, const StudyOptions& options) : SampleStudy(shape, options, 0, 0) {}

  Result finalize() const override;

 protected:
  size_t num_masses() const override { return 0; }
  void read_row(int64_t query, const std::vector<double>& row, SampleQuery&, SampleRecord& record) const override {
    if (query >= length_of(static_cast<int64_t>(row.size()))) return;
    if (record.received.size() < row.size()) record.received.resize(row.size());
    for (size_t j = 0; j < row.size(); ++j) record.received[j].add(row[j]);
  }

 private:
  int64_t length_of(int64_t num_keys) const { return is_notebook() ? std::min(num_keys, kNotebookLength) : num_keys; }

  std::string label_of(int64_t position, const SampleQuery& query) const {
    if (is_notebook()) return "Token_" + std::to_string(position);
    const std::string text = options().token_text ? options().token_text(query.token_id) : "";
    return (text.empty() ? "Token_" : text) + std::to_string(position + 1);
  }
};

/// What an expert's tokens receive.
struct Received {
  double weighted = 0;  // sum of g * received
  double plain = 0;     // sum over tokens
  int64_t tokens = 0;
  double gates = 0;
};

Result SankeyTokenExpert::finalize() const {
  SankeyLinks links;
  std::vector<Received> experts(static_cast<size_t>(num_experts()));
  const int64_t length = record() == nullptr ? 0 : length_of(record()->num_keys);
  const std::map<int64_t, SampleQuery> none;
  for (const auto& [s, query] : record() == nullptr ? none : record()->queries) {
    if (s >= length) break;
    const auto at = static_cast<size_t>(s);
    const double received = at < record()->received.size() ? record()->received[at].value() : 0;
    for (size_t k = 0; k < query.ids.size(); ++k) {
      const int32_t id = query.ids[k];
      if (id < 0) continue;
      links.add(1, label_of(s, query), "Expert_" + std::to_string(id), query.gates[k]);
      Received& expert = experts[static_cast<size_t>(id)];
      expert.weighted += query.gates[k] * received;
      expert.gates += query.gates[k];
      if (std::find(query.ids.begin(), query.ids.begin() + static_cast<int64_t>(k), id) ==
          query.ids.begin() + static_cast<int64_t>(k)) {
        expert.plain += received;
        ++expert.tokens;
      }
    }
  }
  Result result;
  result.sentence = "no attention of the sample was seen";
  double most = -1;
  for (size_t e = 0; e < experts.size(); ++e) {
    if (experts[e].tokens == 0) continue;
    const double mean = experts[e].plain / static_cast<double>(experts[e].tokens);
    links.add(2, "Expert_" + std::to_string(e), "Attention", is_notebook() ? mean : experts[e].weighted);
    const double ratio = experts[e].weighted / experts[e].gates;
    if (!(ratio > most)) continue;
    most = ratio;
    result.sentence = "in sample " + std::to_string(sample()) + ", layer " + layer_name() + ", the tokens of expert " +
                      std::to_string(e) + " receive most attention: " + number_text(ratio) +
                      " times the average, weighted by their gates";
  }
  result.tables.push_back(links.table("sankey_token_expert"));
  add_notices(result);
  return result;
}

}  // namespace

std::unique_ptr<Study> make_sankey_token_expert(const ComponentShape& shape, const StudyOptions& options) {
  return std::make_unique<SankeyTokenExpert>(shape, options);
}

}  // namespace moetap::analysis::studies
