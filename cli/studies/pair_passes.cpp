#include "cli/studies/pair_passes.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <mutex>

#include "cli/studies/piece_queue.h"
#include "cli/studies/token_pairs.h"

namespace moetap::cli {
namespace {

using studies::Order;

constexpr int64_t kPieceTokens = 4096;

/// A sample of one run, of the other, or of both: its tokens in their orders by samples. Or a piece of one run's tokens
/// of no known sample.
struct Unit {
  int64_t a_begin = 0, a_end = 0, b_begin = 0, b_end = 0;

  int64_t num_tokens() const { return a_end - a_begin + b_end - b_begin; }
};

/// A number of a sample comes in several ranks.
bool repeats_in_ranks(const TokenSource& source) {
  const std::vector<SourceSample> samples = source.samples();
  const auto same = [](const SourceSample& one, const SourceSample& next) { return one.sample == next.sample; };
  return std::adjacent_find(samples.begin(), samples.end(), same) != samples.end();
}

bool joins_by_rank(const TokenSource& a, const TokenSource& b) {
  return repeats_in_ranks(a) || repeats_in_ranks(b);
}

std::vector<Unit> join_samples(const TokenSource& a, const TokenSource& b) {
  std::vector<SourceSample> of_a = a.samples(), of_b = b.samples();
  if (!joins_by_rank(a, b)) {
    for (std::vector<SourceSample>* of : {&of_a, &of_b}) {
      for (SourceSample& sample : *of) sample.rank = 0;
    }
  }
  const std::vector<int64_t>&cuts_a = a.cuts(Order::kSamples), &cuts_b = b.cuts(Order::kSamples);
  std::vector<Unit> units;
  for (size_t i = 0, j = 0; i < of_a.size() || j < of_b.size();) {
    const bool a_first = j == of_b.size() || (i < of_a.size() && of_a[i] < of_b[j]);
    const bool b_first = i == of_a.size() || (j < of_b.size() && of_b[j] < of_a[i]);
    Unit unit{cuts_a[i], cuts_a[i], cuts_b[j], cuts_b[j]};
    if (!b_first) unit.a_end = cuts_a[++i];
    if (!a_first) unit.b_end = cuts_b[++j];
    units.push_back(unit);
  }
  // Tokens of no known sample have no partner: those of one run, then those of the other.
  for (size_t i = of_a.size(); i + 1 < cuts_a.size(); ++i) {
    units.push_back({cuts_a[i], cuts_a[i + 1], cuts_b[of_b.size()], cuts_b[of_b.size()]});
  }
  for (size_t j = of_b.size(); j + 1 < cuts_b.size(); ++j) {
    units.push_back({cuts_a.back(), cuts_a.back(), cuts_b[j], cuts_b[j + 1]});
  }
  return units;
}

/// The layers of the pair's shape, where a source has more.
std::vector<size_t> places_of(const studies::ComponentShape& wanted, const studies::ComponentShape& has) {
  std::vector<size_t> places;
  for (const studies::LayerShape& layer : wanted.layers) {
    const auto found = std::find_if(has.layers.begin(), has.layers.end(),
                                    [&](const studies::LayerShape& of) { return of.id == layer.id; });
    places.push_back(static_cast<size_t>(found - has.layers.begin()));
  }
  return places;
}

void choose_layers(studies::TokenBatch& batch, const std::vector<size_t>& places) {
  std::vector<studies::LayerTokens> layers;
  for (const size_t place : places) layers.push_back(batch.layers[place]);
  batch.layers = std::move(layers);
}

/// True if the rows are those of both batches as they stand.
bool stands_as_is(const std::vector<PairedRow>& rows, int64_t num_a, int64_t num_b) {
  if (num_a != num_b || static_cast<int64_t>(rows.size()) != num_a) return false;
  for (size_t i = 0; i < rows.size(); ++i) {
    if (rows[i].a != static_cast<int64_t>(i) || rows[i].b != static_cast<int64_t>(i)) return false;
  }
  return true;
}

}  // namespace

studies::PairShape pair_of_shapes(const studies::ComponentShape& a, const studies::ComponentShape& b,
                                  const std::string& name_a, const std::string& name_b,
                                  std::vector<std::string>& notices) {
  studies::PairShape shape{{}, {}, name_a, name_b};
  shape.a.name = shape.b.name = a.name;
  shape.a.groups = a.groups;
  shape.b.groups = b.groups;
  std::string alone;
  for (const studies::LayerShape& layer : a.layers) {
    const auto& others = b.layers;
    const auto found =
        std::find_if(others.begin(), others.end(), [&](const studies::LayerShape& of) { return of.id == layer.id; });
    if (found == others.end()) {
      alone += (alone.empty() ? "" : ", ") + layer.id;
      continue;
    }
    shape.a.layers.push_back(layer);
    shape.b.layers.push_back(*found);
  }
  for (const studies::LayerShape& layer : b.layers) {
    const bool both = std::any_of(shape.b.layers.begin(), shape.b.layers.end(),
                                  [&](const studies::LayerShape& of) { return of.id == layer.id; });
    if (!both) alone += (alone.empty() ? "" : ", ") + layer.id;
  }
  if (!alone.empty()) {
    notices.push_back(fmt::format("{}: layers that only one of {} and {} has are not compared: {}", shape.a.name,
                                  name_a, name_b, alone));
  }
  return shape;
}

studies::PairShape pair_shape(const TokenSource& a, const TokenSource& b, const std::string& name_a,
                              const std::string& name_b, std::vector<std::string>& notices) {
  if (joins_by_rank(a, b)) {
    notices.push_back(
        fmt::format("{}: sample numbers come in several ranks of a run, so {} and {} are compared rank by "
                    "rank; moetap merge --relabel gives each sample its own",
                    a.shape().name, name_a, name_b));
  }
  return pair_of_shapes(a.shape(), b.shape(), name_a, name_b, notices);
}

void make_pair_studies(const TokenSource& a, const TokenSource& b, const studies::PairShape& shape,
                       std::vector<RunningPair>& running, const PassOptions& options) {
  const std::vector<Unit> units = join_samples(a, b);
  std::vector<int64_t> cuts{0};  // of the tokens of both, by samples
  for (const Unit& unit : units) cuts.push_back(cuts.back() + unit.num_tokens());
  PieceQueue queue({cuts.back(), cuts, 2 * kPieceTokens, options.shard});
  uint32_t needs = 0;
  for (const RunningPair& of : running) needs |= of.entry->needs | of.entry->wants;
  const std::vector<size_t> places_a = places_of(shape.a, a.shape()), places_b = places_of(shape.b, b.shape());
  std::mutex merging;
  std::atomic<int64_t> done = 0;
  run_threads(options.num_threads, [&](int thread, const std::function<bool()>& stopped) {
    const auto reader_a = a.open(needs), reader_b = b.open(needs);
    GatheredBatch gathered_a, gathered_b;
    std::vector<std::unique_ptr<studies::PairStudy>> workers;
    for (const RunningPair& of : running) workers.push_back(of.make());
    while (const auto piece = queue.next()) {
      if (stopped()) return;
      if (thread == 0) {
        options.check();
        options.progress(done, queue.end() - queue.begin());
      }
      // Samples without tokens share a cut: the first one that begins at the piece's begin, and the first one behind
      // it.
      const auto first = std::lower_bound(cuts.begin(), cuts.end(), piece->first) - cuts.begin();
      const auto last = std::lower_bound(cuts.begin(), cuts.end(), piece->first + piece->n) - cuts.begin();
      const Unit& begin = units[static_cast<size_t>(first)];
      std::vector<int64_t> samples_a, samples_b;
      for (auto unit = first; unit < last; ++unit) {
        samples_a.push_back(units[static_cast<size_t>(unit)].a_begin - begin.a_begin);
        samples_b.push_back(units[static_cast<size_t>(unit)].b_begin - begin.b_begin);
      }
      samples_a.push_back(units[static_cast<size_t>(last - 1)].a_end - begin.a_begin);
      samples_b.push_back(units[static_cast<size_t>(last - 1)].b_end - begin.b_begin);
      studies::TokenBatch& batch_a = reader_a->read(Order::kSamples, begin.a_begin, samples_a.back());
      studies::TokenBatch& batch_b = reader_b->read(Order::kSamples, begin.b_begin, samples_b.back());
      choose_layers(batch_a, places_a);
      choose_layers(batch_b, places_b);
      const std::vector<PairedRow> rows = pair_rows(batch_a, samples_a, batch_b, samples_b);
      studies::PairBatch pair;
      if (stands_as_is(rows, batch_a.num_tokens, batch_b.num_tokens)) {
        pair = {batch_a, batch_b};
      } else {
        pair = {gathered_a.gather(batch_a, batch_b, rows, true), gathered_b.gather(batch_b, batch_a, rows, false)};
      }
      for (const auto& worker : workers) worker->observe(pair);
      done += piece->n;
    }
    const std::lock_guard lock(merging);
    for (size_t i = 0; i < running.size(); ++i) running[i].study->merge(*workers[i]);
  });
}

}  // namespace moetap::cli
