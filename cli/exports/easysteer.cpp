#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <functional>
#include <map>
#include <numeric>
#include <optional>

#include "cli/exports/export_format.h"
#include "cli/terminal/command_error.h"
#include "plugin/formats/atomic_file.h"
#include "plugin/formats/json_text.h"

namespace moetap::cli {
namespace {

constexpr int64_t kBatchTokens = 1 << 12;

/// A slice as Python's: empty ends are the ends, negative ones count from the end, all clamp.
struct Slice {
  std::optional<int64_t> begin, end;

  static Slice parse(const std::string& text) {
    Slice slice;
    if (text.empty()) return slice;
    const size_t colon = text.find(':');
    const auto number = [&](const std::string& part) -> std::optional<int64_t> {
      if (part.empty()) return std::nullopt;
      int64_t value = 0;
      const auto read = std::from_chars(part.data(), part.data() + part.size(), value);
      if (read.ec != std::errc{} || read.ptr != part.data() + part.size()) {
        throw CommandError(fmt::format("--token-range must be A:B with whole numbers, got \"{}\"", text), kExitUsage);
      }
      return value;
    };
    if (colon == std::string::npos) number("x");  // says what is expected
    slice.begin = number(text.substr(0, colon));
    slice.end = number(text.substr(colon + 1));
    return slice;
  }

  std::pair<int64_t, int64_t> of(int64_t size) const {
    const auto place = [&](int64_t end) { return std::clamp<int64_t>(end < 0 ? end + size : end, 0, size); };
    return {place(begin.value_or(0)), place(end.value_or(size))};
  }
};

/// Which tokens one result is about.
struct Tokens {
  std::optional<std::pair<int64_t, int32_t>> sample;  // (sample, rank)
  int64_t begin = 0, end = 0;                         // tokens of the component to look at
  int64_t from = 0, to = 0;                           // of those that fit, by order: the slice
};

class UsageExport {
 public:
  explicit UsageExport(const ExportJob& job)
      : job_(job),
        component_(chosen_component(job)),
        slice_(Slice::parse(job.options.token_range)),
        reader_(open_component(job, component_)),
        layers_(layers_with(job, reader_, component_, "logits")) {
    if (!job.options.phase.empty() && job.options.phase != "prompt" && job.options.phase != "generation") {
      throw CommandError(fmt::format("--phase must be prompt or generation, got \"{}\"", job.options.phase),
                         kExitUsage);
    }
    for (const plugin::ReadLayer& layer : layers_) {
      if (job.options.top_k > reader_.width(layer.layer, "logits") || job.options.top_k < 0) {
        throw CommandError(fmt::format("--top-k: layer {} has {} experts, got {}", layer.layer,
                                       reader_.width(layer.layer, "logits"), job.options.top_k),
                           kExitUsage);
      }
    }
  }

  void run() {
    plugin::AtomicFile file(job_.output);
    const std::vector<Tokens> wanted = wanted_tokens();
    if (job_.options.split_samples) file.write("[");
    for (size_t i = 0; i < wanted.size(); ++i) {
      if (i > 0) file.write(",\n");
      write_result(file, wanted[i]);
    }
    file.write(job_.options.split_samples ? "]\n" : "\n");
    file.commit();
    job_.results.push_back(fmt::format("{}: {} tokens, {} layers", component_, num_tokens_, layers_.size()));
  }

 private:
  bool fits(const plugin::TokenLabel& label, const Tokens& tokens) const {
    if (label.phase < 0) return false;
    if (!job_.options.phase.empty() && (label.phase == 1) != (job_.options.phase == "generation")) return false;
    if (job_.options.sample >= 0 && label.sample != job_.options.sample) return false;
    return !tokens.sample || *tokens.sample == std::pair(label.sample, label.rank);
  }

  template <typename Use>  // use(first, n, which of them belong to the result)
  void for_batches(const Tokens& tokens, const Use& use) {
    std::vector<plugin::TokenLabel> labels;
    std::vector<int64_t> chosen;
    int64_t place = 0;
    for (int64_t first = tokens.begin; first < tokens.end; first += kBatchTokens) {
      job_.check();
      const int64_t n = std::min(kBatchTokens, tokens.end - first);
      labels.resize(static_cast<size_t>(n));
      reader_.read_labels(first, n, labels.data());
      chosen.clear();
      for (int64_t i = 0; i < n; ++i) {
        if (!fits(labels[static_cast<size_t>(i)], tokens)) continue;
        if (place >= tokens.from && place < tokens.to) chosen.push_back(i);
        ++place;
      }
      if (!chosen.empty()) use(first, n, chosen);
    }
  }

  std::vector<Tokens> wanted_tokens();
  void set_slice(Tokens& tokens, int64_t size) { std::tie(tokens.from, tokens.to) = slice_.of(size); }
  void write_result(plugin::AtomicFile& file, const Tokens& tokens);
  template <typename Use>
  void for_rows(const plugin::ReadLayer& layer, const Tokens& tokens, const Use& use);
  void write_layers(plugin::AtomicFile& file, const char* key, const std::function<void(size_t)>& write);

  const ExportJob& job_;
  std::string component_;
  Slice slice_;
  plugin::ComponentReader reader_;
  std::vector<plugin::ReadLayer> layers_;
  int64_t num_tokens_ = 0;
};

std::vector<Tokens> UsageExport::wanted_tokens() {
  Tokens all{std::nullopt, 0, reader_.num_tokens(), 0, reader_.num_tokens()};
  struct Extent {
    Tokens tokens;
    int64_t size = 0;
  };
  std::map<std::pair<int64_t, int32_t>, Extent> samples;
  int64_t size = 0;
  std::vector<plugin::TokenLabel> labels;
  for_batches(all, [&](int64_t first, int64_t n, const std::vector<int64_t>& chosen) {
    size += static_cast<int64_t>(chosen.size());
    if (!job_.options.split_samples) return;
    labels.resize(static_cast<size_t>(n));
    reader_.read_labels(first, n, labels.data());
    for (const int64_t i : chosen) {
      const plugin::TokenLabel& label = labels[static_cast<size_t>(i)];
      Extent& extent = samples[{label.sample, label.rank}];
      if (extent.size++ == 0) extent.tokens.begin = first + i;
      extent.tokens.end = first + i + 1;
    }
  });
  if (!job_.options.split_samples) {
    set_slice(all, size);
    return {all};
  }
  std::vector<Tokens> wanted;
  for (auto& [sample, extent] : samples) {
    extent.tokens.sample = sample;
    set_slice(extent.tokens, extent.size);
    wanted.push_back(extent.tokens);
  }
  return wanted;
}

/// Calls use(ids [K], probabilities [E]) for each of the tokens that the layer saw.
template <typename Use>
void UsageExport::for_rows(const plugin::ReadLayer& layer, const Tokens& tokens, const Use& use) {
  const int64_t num_experts = reader_.width(layer.layer, "logits");
  const int64_t own = reader_.width(layer.layer, "selected");
  std::vector<int32_t> ids, again(static_cast<size_t>(num_experts));
  std::vector<float> probabilities;
  for_batches(tokens, [&](int64_t first, int64_t n, const std::vector<int64_t>& chosen) {
    ids.resize(static_cast<size_t>(n * own));
    probabilities.resize(static_cast<size_t>(n * num_experts));
    reader_.read_ids(layer.layer, first, n, own, ids.data());
    drop_foreign_ids(layer, ids.data(), n * own);
    reader_.read_reals(layer.layer, "logits", first, n, num_experts, probabilities.data());
    for (const int64_t i : chosen) {
      float* row = probabilities.data() + i * num_experts;
      if (std::isnan(row[0])) continue;  // the layer did not see the token
      softmax_rows(row, 1, num_experts);
      const int32_t* selected = ids.data() + i * own;
      if (job_.options.top_k > 0) {
        std::iota(again.begin(), again.end(), 0);
        std::partial_sort(again.begin(), again.begin() + job_.options.top_k, again.end(),
                          [&](int32_t a, int32_t b) { return row[a] != row[b] ? row[a] > row[b] : a < b; });
        selected = again.data();
      }
      use(selected, job_.options.top_k > 0 ? job_.options.top_k : own, row, num_experts);
    }
  });
}

void UsageExport::write_layers(plugin::AtomicFile& file, const char* key, const std::function<void(size_t)>& write) {
  file.write(fmt::format("{}: {{", plugin::quoted_text(key)));
  for (size_t i = 0; i < layers_.size(); ++i) {
    file.write(fmt::format("{}{}: ", i == 0 ? "" : ", ", plugin::quoted_text(layers_[i].layer)));
    write(i);
  }
  file.write("}");
}

void UsageExport::write_result(plugin::AtomicFile& file, const Tokens& tokens) {
  std::vector<std::vector<int64_t>> counts(layers_.size());
  std::vector<int64_t> seen(layers_.size());
  file.write("{");
  const auto write_rows = [&](size_t i, const auto& text_of) {
    const char* separator = "[";
    for_rows(layers_[i], tokens, [&](const int32_t* ids, int64_t top_k, const float* probabilities, int64_t experts) {
      file.write(separator);
      separator = ", ";
      for (int64_t k = 0; k < top_k; ++k) {
        file.write(k == 0 ? "[" : ", ");
        file.write(text_of(ids[k], probabilities, experts));
      }
      file.write("]");
    });
    file.write(*separator == '[' ? "[]" : "]");
  };
  write_layers(file, "expert_selection", [&](size_t i) {
    counts[i].assign(static_cast<size_t>(reader_.width(layers_[i].layer, "logits")), 0);
    for_rows(layers_[i], tokens, [&](const int32_t* ids, int64_t top_k, const float*, int64_t experts) {
      ++seen[i];
      for (int64_t k = 0; k < top_k; ++k) {
        if (ids[k] >= 0 && ids[k] < experts) ++counts[i][static_cast<size_t>(ids[k])];
      }
    });
    write_rows(i, [](int32_t id, const float*, int64_t) { return std::to_string(id); });
  });
  file.write(", ");
  write_layers(file, "expert_weights", [&](size_t i) {
    write_rows(i, [](int32_t id, const float* probabilities, int64_t experts) {
      const bool known = id >= 0 && id < experts && std::isfinite(probabilities[id]);
      return known ? fmt::format("{}", probabilities[id]) : std::string("0.0");
    });
  });
  file.write(", ");
  write_layers(file, "expert_usage_counts", [&](size_t i) {
    std::string text;
    for (const int64_t count : counts[i]) {
      text += text.empty() ? "[" : ", ";
      text += job_.options.normalize
                  ? fmt::format("{}", seen[i] == 0 ? 0.0 : static_cast<double>(count) / static_cast<double>(seen[i]))
                  : std::to_string(count);
    }
    file.write(text + "]");
  });
  file.write(", ");
  write_layers(file, "load_balance", [&](size_t i) {
    const auto num_experts = static_cast<double>(counts[i].size());
    double sum = 0, squares = 0;
    for (const int64_t count : counts[i]) sum += static_cast<double>(count);
    const double mean = sum / num_experts;
    for (const int64_t count : counts[i])
      squares += (static_cast<double>(count) - mean) * (static_cast<double>(count) - mean);
    const bool defined = counts[i].size() > 1 && sum > 0;
    file.write(fmt::format("{}", defined ? std::sqrt(squares / (num_experts - 1)) / mean : 0.0));
  });
  const int64_t analysed = std::max<int64_t>(0, tokens.to - tokens.from);
  num_tokens_ += analysed;
  file.write(fmt::format(", \"num_tokens_analyzed\": {}}}", analysed));
}

}  // namespace

void export_easysteer(const ExportJob& job) {
  UsageExport(job).run();
}

}  // namespace moetap::cli
