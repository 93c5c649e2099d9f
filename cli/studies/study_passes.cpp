#include "cli/studies/study_passes.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <exception>
#include <map>
#include <mutex>
#include <thread>

#include "analysis/studies/row_scratch.h"
#include "analysis/studies/usage_scratch.h"
#include "analysis/studies/used_rows.h"
#include "cli/studies/piece_queue.h"

namespace moetap::cli {
namespace {

using studies::Order;

constexpr int64_t kPieceBytes = int64_t{4} << 20;       // of one batch: what fits the caches of a core
constexpr int64_t kMaxBatchesBytes = int64_t{1} << 31;  // of all threads: a whole forward may be large
constexpr int64_t kMinPieceTokens = 256, kMaxPieceTokens = 1 << 16;
constexpr uint32_t kOfBatches = studies::kNeedsTokens | studies::kNeedsWeights | studies::kNeedsGates |
                                studies::kNeedsScores | studies::kNeedsLogits | studies::kNeedsTokenIds |
                                studies::kNeedsPadding | studies::kNeedsGroups;
constexpr uint32_t kOfAttention = studies::kNeedsAttention | studies::kNeedsStats;

uint32_t bits_of(const RunningStudy& running) {
  return running.entry->needs | running.entry->wants;
}

/// Studies that one pass over the tokens serves.
struct TokenPass {
  Order order = Order::kTokens;  // in which the tokens are read
  bool whole = false;            // not the shard alone
  bool sequential = false;
  std::vector<RunningStudy*> studies;
};

std::vector<TokenPass> plan_passes(const TokenSource& source, const std::vector<RunningStudy*>& active, int pass) {
  std::map<std::array<int, 3>, TokenPass> passes;
  for (RunningStudy* running : active) {
    if ((running->entry->needs & studies::kNeedsTokens) == 0) continue;
    const Order order = source.is_token_order(running->entry->order) ? Order::kTokens : running->entry->order;
    const bool whole = pass + 1 < running->study->num_passes();
    const bool sequential = running->study->is_sequential();
    TokenPass& of = passes[{static_cast<int>(order), whole ? 1 : 0, sequential ? 1 : 0}];
    of.order = order;
    of.whole = whole;
    of.sequential = sequential;
    of.studies.push_back(running);
  }
  std::vector<TokenPass> plan;
  for (auto& [key, of] : passes) plan.push_back(std::move(of));
  return plan;
}

/// Where the pass may be cut: what all its studies' orders allow. Empty: anywhere.
std::vector<int64_t> cuts_of(const TokenSource& source, const TokenPass& pass) {
  std::vector<int64_t> cuts;
  bool anywhere = true;
  for (const Order order : {Order::kSamples, Order::kForwards}) {
    const bool used = std::any_of(pass.studies.begin(), pass.studies.end(),
                                  [&](const RunningStudy* running) { return running->entry->order == order; });
    if (!used) continue;
    const std::vector<int64_t>& of = source.cuts(order);
    if (anywhere) {
      cuts = of;
    } else {
      std::vector<int64_t> both;
      std::set_intersection(cuts.begin(), cuts.end(), of.begin(), of.end(), std::back_inserter(both));
      cuts = std::move(both);
    }
    anywhere = anywhere && of.empty();
  }
  return cuts;
}

std::vector<std::unique_ptr<studies::Study>> workers_of(const std::vector<RunningStudy*>& running, int pass) {
  std::vector<std::unique_ptr<studies::Study>> workers;
  for (const RunningStudy* of : running) workers.push_back(pass == 0 ? of->make() : of->study->fork());
  return workers;
}

/// The results of one thread go into those of all.
class Merger {
 public:
  void merge(const std::vector<RunningStudy*>& running, const std::vector<std::unique_ptr<studies::Study>>& workers) {
    const std::lock_guard lock(mutex_);
    for (size_t i = 0; i < running.size(); ++i) running[i]->study->merge(*workers[i]);
  }

 private:
  std::mutex mutex_;
};

void read_tokens(const TokenSource& source, const TokenPass& pass, int number, const PassOptions& options) {
  uint32_t needs = 0;
  for (const RunningStudy* running : pass.studies) needs |= bits_of(*running) & kOfBatches;
  const int64_t total = source.num_tokens(pass.order);
  const std::vector<int64_t> cuts = cuts_of(source, pass);
  const int64_t bytes = std::max<int64_t>(source.bytes_per_token(needs), 1);
  const bool undivided = pass.whole || pass.sequential;
  if (pass.sequential && !pass.whole && options.shard.index != 0) return;  // shard 0 takes all of it
  const Shard shard = undivided ? Shard() : options.shard;
  PieceQueue queue({total, cuts, std::clamp(kPieceBytes / bytes, kMinPieceTokens, kMaxPieceTokens), shard});
  if (queue.end() <= queue.begin()) return;
  const int64_t most = std::max<int64_t>(kMaxBatchesBytes / std::max<int64_t>(queue.longest() * bytes, 1), 1);
  const int num_threads = pass.sequential ? 1 : static_cast<int>(std::min<int64_t>(options.num_threads, most));
  // The first thread observes with the studies themselves, the others with workers that are merged at the end.
  std::vector<std::vector<std::unique_ptr<studies::Study>>> workers(static_cast<size_t>(num_threads));
  std::atomic<int64_t> done = 0;
  run_threads(num_threads, [&](int thread, const std::function<bool()>& stopped) {
    const std::unique_ptr<TokenReader> reader = source.open(needs);
    std::vector<std::unique_ptr<studies::Study>>& own = workers[static_cast<size_t>(thread)];
    if (thread > 0) own = workers_of(pass.studies, number);
    std::vector<studies::Study*> observers;
    for (size_t i = 0; i < pass.studies.size(); ++i) {
      observers.push_back(thread > 0 ? own[i].get() : pass.studies[i]->study.get());
    }
    studies::UsageScratch usage;
    studies::UsedRowsOfBatch used;
    while (const auto piece = queue.next()) {
      if (stopped()) return;
      if (thread == 0) {
        options.check();
        options.progress(done, queue.end() - queue.begin());
      }
      studies::TokenBatch& batch = reader->read(pass.order, piece->first, piece->n);
      usage.begin();
      batch.usage = &usage;
      used.begin();
      batch.used = &used;
      for (studies::Study* observer : observers) observer->observe(batch);
      done += piece->n;
    }
  });
  for (size_t thread = 1; thread < workers.size(); ++thread) {
    for (size_t i = 0; i < workers[thread].size(); ++i) pass.studies[i]->study->merge(*workers[thread][i]);
    workers[thread].clear();
  }
}

void read_attention(const TokenSource& source, const std::vector<RunningStudy*>& running, int number,
                    const PassOptions& options) {
  const std::vector<AttentionPiece> pieces = source.attention();
  uint32_t needs = 0;
  for (const RunningStudy* of : running) needs |= bits_of(*of);
  LayerQueue queue(pieces, options.shard);
  if (queue.num_bytes() == 0) return;
  Merger merger;
  std::atomic<int64_t> done = 0;
  run_threads(options.num_threads, [&](int thread, const std::function<bool()>& stopped) {
    const std::unique_ptr<AttentionReader> reader = source.open_attention(needs);
    std::vector<std::unique_ptr<studies::Study>> workers = workers_of(running, number);
    studies::RowScratch values;
    int64_t layer = -1;
    while (const AttentionPiece* piece = queue.next(layer)) {
      if (stopped()) return;
      if (thread == 0) {
        options.check();
        options.progress(done, queue.num_bytes());
      }
      layer = piece->layer;
      reader->read(
          *piece,
          [&](studies::AttentionRows& rows) {
            values.begin();
            rows.values = &values;
            for (const auto& worker : workers) worker->observe(rows);
          },
          [&](studies::AttentionStats& stats) {
            for (const auto& worker : workers) worker->observe(stats);
          });
      done += piece->bytes;
    }
    merger.merge(running, workers);
  });
}

}  // namespace

void run_threads(int num_threads, const std::function<void(int thread, const std::function<bool()>& stopped)>& work) {
  std::atomic<bool> stop = false;
  std::mutex mutex;
  std::exception_ptr error;
  const auto run = [&](int thread) {
    try {
      work(thread, [&] { return stop.load(); });
    } catch (...) {
      const std::lock_guard lock(mutex);
      if (!error) error = std::current_exception();
      stop = true;
    }
  };
  std::vector<std::thread> threads;
  for (int thread = 1; thread < num_threads; ++thread) threads.emplace_back(run, thread);
  run(0);
  for (std::thread& thread : threads) thread.join();
  if (error) std::rethrow_exception(error);
}

void make_studies(const TokenSource& source, std::vector<RunningStudy>& running, const PassOptions& options) {
  int num_passes = 0;
  for (const RunningStudy& of : running) num_passes = std::max(num_passes, of.study->num_passes());
  for (int pass = 0; pass < num_passes; ++pass) {
    std::vector<RunningStudy*> active, attending;
    for (RunningStudy& of : running) {
      if (of.study->num_passes() <= pass) continue;
      if (pass > 0) of.study->begin_pass(pass);
      active.push_back(&of);
      if ((bits_of(of) & kOfAttention & source.has()) != 0) attending.push_back(&of);
    }
    for (const TokenPass& of : plan_passes(source, active, pass)) read_tokens(source, of, pass, options);
    if (attending.empty()) continue;
    read_attention(source, attending, pass, options);
    if (options.shard.index != 0) continue;  // the totals are of the whole run: one shard has them
    source.read_totals([&](const studies::AttentionTotals& totals) {
      for (RunningStudy* of : attending) of->study->observe(totals);
    });
  }
}

}  // namespace moetap::cli
