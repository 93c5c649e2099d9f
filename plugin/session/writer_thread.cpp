#include "plugin/session/writer_thread.h"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <utility>

#include "analysis/routers/router_columns.h"
#include "plugin/process/error_text.h"
#include "plugin/process/notices.h"

namespace moetap::plugin {
namespace {

constexpr int64_t kMostBytesOfABatch = int64_t{4} << 20;
constexpr std::chrono::steady_clock::time_point kNoWait{};

/// Blocks all signals of the calling thread while it lives.
class BlockedSignals {
 public:
  BlockedSignals() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~BlockedSignals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  BlockedSignals(const BlockedSignals&) = delete;
  BlockedSignals& operator=(const BlockedSignals&) = delete;

 private:
  sigset_t before_;
};

/// Starts a thread that inherits a mask of all signals.
std::thread start_without_signals(std::function<void()> body) {
  const BlockedSignals blocked;
  return std::thread(std::move(body));
}

}  // namespace

WriterThread::WriterThread(std::unique_ptr<RecordSink> sink, ForwardQueue& queue, std::function<Counters()> counters)
    : queue_(queue), sink_(std::move(sink)), session_counters_(std::move(counters)) {
  times_.opened = std::chrono::system_clock::now();
  thread_ = start_without_signals([this] { run(); });
  pthread_setname_np(thread_.native_handle(), "moetap-writer");
}

WriterThread::~WriterThread() {
  if (thread_.joinable()) {
    queue_.close();
    thread_.join();
  }
}

void WriterThread::run() {
  while (true) {
    ForwardQueue::Item item;
    const bool has_batch = batch_bytes_ > 0;
    const auto popped = queue_.pop(item, has_batch ? ForwardQueue::Deadline(kNoWait) : next_flush());
    if (has_batch && (!item.forward || batch_bytes_ > std::min(kMostBytesOfABatch, queue_.capacity_bytes() / 4)))
      end_batch();
    if (popped == ForwardQueue::Popped::kClosed) {
      break;
    }
    if (popped == ForwardQueue::Popped::kDeadline && has_batch) continue;
    if (item.forward) {
      if (batch_bytes_ == 0) begin_batch();
      write(*item.forward);
      item.forward.reset();  // frees its memory before its bytes are free in the queue
      batch_bytes_ += item.bytes;
      const auto now = std::chrono::steady_clock::now();
      if (!next_sync_) {
        next_sync_ = now + kSyncInterval;
      } else if (now >= *next_sync_) {
        flush_sink();
      }
    } else {
      flush_sink();
    }
    if (item.flush_requested) {
      item.flush_requested->set_value();
    }
  }
  if (end_) {
    complete_sink();
  }
}

void WriterThread::begin_batch() {
  if (error()) return;
  try {
    sink_->begin_batch();
  } catch (const std::exception& error) {
    failed(one_line(error));
  }
}

void WriterThread::end_batch() {
  bool written = true;
  try {
    sink_->end_batch();
  } catch (const std::exception& error) {
    failed(one_line(error));
    written = false;
  }
  bytes_written_.store(sink_->bytes_written(), std::memory_order_relaxed);
  {
    const std::lock_guard lock(mutex_);
    if (written) {
      counted_.tokens += batch_.tokens;
      counted_.out_of_range += batch_.out_of_range;
      counted_.unattributed += batch_.unattributed;
    } else {
      counted_.unwritten += batch_.forwards;
    }
  }
  batch_ = {};
  queue_.written(std::exchange(batch_bytes_, 0));
}

std::optional<std::chrono::steady_clock::time_point> WriterThread::next_flush() const {
  if (!next_sync_ || !wanted_flush_) return next_sync_ ? next_sync_ : wanted_flush_;
  return std::min(*next_sync_, *wanted_flush_);
}

void WriterThread::flush_sink() {
  if (batch_bytes_ > 0) end_batch();
  next_sync_.reset();
  wanted_flush_.reset();
  if (error()) {
    return;
  }
  try {
    sink_->count(session_counters_());
    sink_->flush();
  } catch (const std::exception& error) {
    failed(one_line(error));
  }
  wanted_flush_ = error() ? std::nullopt : sink_->next_flush();
}

void WriterThread::write(PendingForward& forward) {
  const int64_t forwards = forward.record.num_forwards();
  try {
    ForwardRecord record = forward.finish();
    {
      const std::lock_guard lock(mutex_);
      record.unwritten_before = counted_.unwritten;
    }
    if (!error() && give_to_sink(record)) {
      forward.recorded(record);
      tell(record.unverified, *record.model);
      batch_.forwards += forwards;
      batch_.tokens += record.tokens;
      batch_.out_of_range += record.out_of_range;
      batch_.unattributed += record.unattributed;
      return;
    }
  } catch (const std::exception& error) {
    lost(one_line(error));
  }
  const std::lock_guard lock(mutex_);
  counted_.unwritten += forwards;
}

bool WriterThread::give_to_sink(const ForwardRecord& record) {
  try {
    if (!known_models_.contains(record.model->instance)) {
      sink_->add_model(record.model);
      known_models_.insert(record.model->instance);
    }
    sink_->write(record);
    return true;
  } catch (const RecordError&) {
    throw;
  } catch (const std::exception& error) {
    failed(one_line(error));
    return false;
  }
}

void WriterThread::lost(const std::string& reason) {
  static constexpr const char* kNotice = "a forward could not be recorded, the next ones are";
  bool first = false;
  {
    const std::lock_guard lock(mutex_);
    first = ++counted_.notices[kNotice] == 1;
  }
  if (first) notify(std::string(kNotice) + ": " + reason);
}

void WriterThread::tell(const std::vector<UnverifiedColumn>& unverified, const ModelDescription& model) {
  for (const UnverifiedColumn& column : unverified) {
    const bool all = analysis::is_all_of_hook(column.column);
    const std::string line = "hook \"" + model.hooks.at(static_cast<size_t>(column.hook)).name + "\": its " +
                             analysis::column_name(column.column) + " do not fit and are left out" +
                             (all ? ", and all else of it" : "");
    {
      const std::lock_guard lock(mutex_);
      ++counted_.notices[line];
      if (column.stops_hook) ++counted_.failed_hooks;
    }
    notify(line + ": " + column.reason);
  }
}

void WriterThread::failed(const std::string& reason) {
  {
    const std::lock_guard lock(mutex_);
    if (error_) {
      return;
    }
    error_ = reason;
  }
  notify(reason + "; nothing more is recorded, the model runs on");
}

void WriterThread::complete_sink() {
  times_.closed = std::chrono::system_clock::now();
  try {
    if (*end_ == RunEnd::kUnfinished) {
      sink_->leave_unfinished();
    }
    sink_->close(session_counters_(), times_);
  } catch (const std::exception& error) {
    failed(one_line(error));
  }
  sink_.reset();
}

void WriterThread::finish(RunEnd end) {
  end_ = end;
  queue_.close();
  thread_.join();
}

std::optional<std::string> WriterThread::error() const {
  const std::lock_guard lock(mutex_);
  return error_;
}

void WriterThread::add_to(Counters& counters) const {
  const std::lock_guard lock(mutex_);
  counters += counted_;
}

}  // namespace moetap::plugin
