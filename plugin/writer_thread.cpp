#include "plugin/writer_thread.h"

#include <pthread.h>
#include <signal.h>

#include "plugin/error_text.h"
#include "plugin/notices.h"

namespace moetap::plugin {
namespace {

/// Starts a thread that inherits a mask of all signals.
std::thread start_without_signals(std::function<void()> body) {
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  std::thread thread(std::move(body));
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return thread;
}

}  // namespace

WriterThread::WriterThread(std::unique_ptr<RecordSink> sink, RecordQueue& queue)
    : queue_(queue), sink_(std::move(sink)) {
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
  while (auto item = queue_.pop()) {
    if (item->forward) {
      write(*item->forward);
      item->forward.reset();  // its memory is free before its bytes are
      queue_.written(item->bytes);
    }
    if (item->flush_requested) {
      if (!error()) {
        try {
          sink_->flush();
        } catch (const std::exception& error) {
          failed(one_line(error));
        }
      }
      item->flush_requested->set_value();
    }
  }
  if (counters_at_close_) {
    complete_sink();
  }
}

void WriterThread::write(PendingForward& forward) {
  const bool is_forward = !forward.record.values_only;
  try {
    const FinishedForward finished = forward.finish();
    {
      const std::lock_guard lock(mutex_);
      counted_.tokens += finished.tokens;
      counted_.out_of_range += finished.out_of_range;
    }
    if (!error()) {
      const auto& record = finished.record;
      if (known_models_.insert(record.model->instance).second) {
        sink_->add_model(record.model);
      }
      sink_->write(record);
      return;
    }
  } catch (const std::exception& error) {
    failed(one_line(error));
  }
  if (is_forward) {
    const std::lock_guard lock(mutex_);
    ++counted_.unwritten;
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
    sink_->close(counters_at_close_(), times_);
  } catch (const std::exception& error) {
    failed(one_line(error));
  }
  sink_.reset();
}

void WriterThread::finish(std::function<Counters()> counters) {
  counters_at_close_ = std::move(counters);
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
