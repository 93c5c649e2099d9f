#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace moetap::plugin {

/// A file of scalars that TensorBoard reads: FOLDER/events.out.tfevents.SECONDS.HOST.PID.N. Records of the TFRecord
/// format (length, data, and a masked CRC-32C of each) that hold protocol buffers tensorflow.Event. TensorBoard follows
/// the file while it grows. Used by one thread; errors are FileError.
class EventFile {
 public:
  /// Creates the folder and the file. `seconds`: since 1970.
  EventFile(const std::string& folder, double seconds);
  EventFile(const EventFile&) = delete;
  EventFile& operator=(const EventFile&) = delete;
  ~EventFile();

  const std::string& path() const { return path_; }

  struct Scalar {
    std::string tag;
    double value;  // written as a float
  };
  /// Appends the scalars of one step, in one write.
  void add(int64_t step, double seconds, const std::vector<Scalar>& scalars);

 private:
  void append(std::string_view event);

  std::string path_;
  int descriptor_ = -1;
};

/// CRC-32C (Castagnoli) of RFC 3720, appendix B.4.
uint32_t crc32c(std::string_view bytes);

}  // namespace moetap::plugin
