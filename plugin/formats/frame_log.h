#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "plugin/formats/random_access_file.h"

namespace moetap::plugin {

// Note [Frames]
// A frame log is a file of frames, one after another:
//
//   u32 magic | u32 kind | u64 payload bytes | u64 checksum of kind and payload | payload
//
// A frame, or a batch of frames, is one write, so a killed process leaves whole frames. If the file was cut (power
// failure, full disk), it is read up to the first frame that is not whole.

/// Appends frames to a file that nobody else writes. Not thread-safe. Errors are std::runtime_error that names the
/// file; a frame or batch that could not be written whole is cut off again, so that more frames can follow.
class FrameLog {
 public:
  /// Creates the file; it must not exist.
  explicit FrameLog(std::string path);
  /// Continues a file that exists after its first `end_bytes` bytes; the rest of it is cut off.
  FrameLog(std::string path, int64_t end_bytes);
  FrameLog(const FrameLog&) = delete;
  FrameLog& operator=(const FrameLog&) = delete;
  ~FrameLog();

  const std::string& path() const { return path_; }
  int64_t bytes() const { return written_bytes_; }  // in the file
  int64_t next_payload() const;  // where the payload of the next frame will lie, in bytes from the start
  /// Bytes of a frame in the file.
  static int64_t frame_bytes(size_t payload_bytes);
  /// The bytes of a frame, for files that are written in another way.
  static std::string frame(uint32_t kind, std::string_view payload);
  /// Writes a frame; after `begin_batch` it only gathers it, and does not fail.
  void append(uint32_t kind, std::string_view payload);
  void begin_batch() { in_batch_ = true; }
  /// Writes what was gathered. If it throws, all of the batch is lost.
  void end_batch();
  /// Forgets what was gathered.
  void drop_batch();
  /// What was gathered from this place in the file on; empty: the place has been written.
  std::string_view gathered_from(int64_t place) const;
  /// Blocks until the frames would survive a power cut. Throws also if the file was removed or replaced:
  /// nobody could read its frames any more.
  void sync();
  /// Throws std::runtime_error if the path no longer leads to this file.
  void check_in_place() const;

 private:
  void write();

  std::string path_;
  int descriptor_ = -1;
  int64_t written_bytes_ = 0;
  bool in_batch_ = false;
  std::string gathered_;  // frames behind these bytes that are not written yet
};

struct Frame {
  uint32_t kind = 0;
  int64_t payload_begin = 0;  // bytes from the start of the file
  std::string payload;
};

/// Reads the frames of a file in order.
class FrameReader {
 public:
  explicit FrameReader(std::string path) : file_(std::move(path)) {}

  /// Empty at the end of the file, or where a frame is not whole.
  std::optional<Frame> next();

  /// Bytes of the frames read so far. Less than the file's size after `next` returned nothing: the file was cut.
  int64_t whole_bytes() const { return next_bytes_; }
  int64_t size_bytes() const { return file_.size_bytes(); }

 private:
  RandomAccessFile file_;
  int64_t next_bytes_ = 0;
};

}  // namespace moetap::plugin
