#include "plugin/formats/frame_log.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <stdexcept>

#include "plugin/formats/checksum.h"
#include "plugin/formats/file_error.h"
#include "plugin/formats/open_file.h"

namespace moetap::plugin {
namespace {

constexpr uint32_t kMagic = 0x5041544D;  // "MTAP"

struct FrameHead {
  uint32_t magic;
  uint32_t kind;
  uint64_t payload_bytes;
  uint64_t checksum;
};
static_assert(sizeof(FrameHead) == 24, "the head is written as it lies in memory");

void append_frame(std::string& bytes, uint32_t kind, std::string_view payload) {
  const FrameHead head{kMagic, kind, payload.size(), checksum(kind, payload)};
  bytes.append(reinterpret_cast<const char*>(&head), sizeof(head));
  bytes.append(payload);
}

}  // namespace

FrameLog::FrameLog(std::string path) : path_(std::move(path)) {
  descriptor_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, kPrivateFile);
  if (descriptor_ < 0) throw_file_error("write", path_, errno);
}

FrameLog::FrameLog(std::string path, int64_t end_bytes) : path_(std::move(path)), written_bytes_(end_bytes) {
  descriptor_ = ::open(path_.c_str(), O_WRONLY | O_CLOEXEC);
  if (descriptor_ < 0) throw_file_error("write", path_, errno);
  if (::ftruncate(descriptor_, end_bytes) != 0) {
    const int error_number = errno;
    ::close(descriptor_);
    throw_file_error("write", path_, error_number);
  }
}

FrameLog::~FrameLog() {
  ::close(descriptor_);
}

int64_t FrameLog::next_payload() const {
  return written_bytes_ + static_cast<int64_t>(gathered_.size() + sizeof(FrameHead));
}

int64_t FrameLog::frame_bytes(size_t payload_bytes) {
  return static_cast<int64_t>(sizeof(FrameHead) + payload_bytes);
}

std::string FrameLog::frame(uint32_t kind, std::string_view payload) {
  std::string bytes;
  append_frame(bytes, kind, payload);
  return bytes;
}

void FrameLog::append(uint32_t kind, std::string_view payload) {
  append_frame(gathered_, kind, payload);
  if (!in_batch_) write();
}

void FrameLog::end_batch() {
  in_batch_ = false;
  write();
}

void FrameLog::drop_batch() {
  in_batch_ = false;
  gathered_.clear();
}

std::string_view FrameLog::gathered_from(int64_t place) const {
  if (place < written_bytes_) return {};
  return std::string_view(gathered_).substr(static_cast<size_t>(place - written_bytes_));
}

void FrameLog::write() {
  std::string_view rest = gathered_;
  int64_t offset = written_bytes_;
  while (!rest.empty()) {
    const ssize_t written = ::pwrite(descriptor_, rest.data(), rest.size(), offset);
    if (written < 0) {
      if (errno == EINTR) continue;
      const int error_number = errno;
      // If this fails too, the reader still stops at the broken frame.
      [[maybe_unused]] const int ignored = ::ftruncate(descriptor_, written_bytes_);
      gathered_.clear();
      throw_file_error("write", path_, error_number);
    }
    offset += written;
    rest.remove_prefix(static_cast<size_t>(written));
  }
  written_bytes_ = offset;
  gathered_.clear();
}

void FrameLog::check_in_place() const {
  if (!leads_to(path_, descriptor_)) {
    throw std::runtime_error("cannot write " + path_ + ": it was removed while the run goes on");
  }
}

void FrameLog::sync() {
  check_in_place();
  if (::fdatasync(descriptor_) != 0 && errno != EINVAL) throw_file_error("write", path_, errno);
}

std::optional<Frame> FrameReader::next() {
  FrameHead head{};
  const int64_t rest = file_.size_bytes() - next_bytes_;
  if (rest < static_cast<int64_t>(sizeof(head))) return std::nullopt;
  file_.read(next_bytes_, &head, sizeof(head));
  if (head.magic != kMagic || head.payload_bytes > static_cast<uint64_t>(rest) - sizeof(head)) return std::nullopt;
  Frame frame;
  frame.kind = head.kind;
  frame.payload_begin = next_bytes_ + static_cast<int64_t>(sizeof(head));
  frame.payload = file_.read(frame.payload_begin, static_cast<int64_t>(head.payload_bytes));
  if (checksum(frame.kind, frame.payload) != head.checksum) return std::nullopt;
  next_bytes_ = frame.payload_begin + static_cast<int64_t>(head.payload_bytes);
  return frame;
}

}  // namespace moetap::plugin
