#include "cli/inputs/zip_archive.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <stdexcept>
#include <string_view>

#include "cli/terminal/command_error.h"
#include "plugin/formats/random_access_file.h"

namespace moetap::cli {
namespace {

// Layout of the end of a zip archive, little-endian: the list of records (46 bytes each, and its texts), where that
// begins in 64 bits (56 bytes), where these are (20 bytes), the end (22 bytes, and a comment).
constexpr std::string_view kRecord("PK\x01\x02", 4), kEnd("PK\x05\x06", 4), kEnd64("PK\x06\x06", 4),
    kLocator64("PK\x06\x07", 4);
constexpr size_t kRecordBytes = 46, kEndBytes = 22, kEnd64Bytes = 56, kLocatorBytes = 20;
constexpr int64_t kMaxCommentBytes = 1 << 16, kMaxListBytes = int64_t{1} << 30;
constexpr uint64_t kIn64Bits = 0xffffffff;
constexpr uint16_t kExtra64 = 1;

template <typename Value>
Value value_at(std::string_view bytes, size_t place) {
  if (bytes.size() < place + sizeof(Value)) throw std::runtime_error("its list of records is cut short");
  Value value;
  std::memcpy(&value, bytes.data() + place, sizeof(value));
  return value;
}

struct RecordList {
  uint64_t num_records = 0;
  std::string bytes;
};

RecordList read_list(const plugin::RandomAccessFile& file) {
  const int64_t size = file.size_bytes();
  const int64_t tail_begin = std::max<int64_t>(size - kMaxCommentBytes - static_cast<int64_t>(kEndBytes), 0);
  const std::string tail = file.read(tail_begin, size - tail_begin);
  const size_t end = tail.size() < kEndBytes ? std::string::npos : tail.rfind(kEnd, tail.size() - kEndBytes);
  if (end == std::string::npos) throw std::runtime_error("it has no list of records (cut short?)");
  uint64_t count = value_at<uint16_t>(tail, end + 10), bytes = value_at<uint32_t>(tail, end + 12),
           begin = value_at<uint32_t>(tail, end + 16);
  if (end >= kLocatorBytes && std::string_view(tail).substr(end - kLocatorBytes).starts_with(kLocator64)) {
    const auto place = value_at<uint64_t>(tail, end - kLocatorBytes + 8);
    if (place > static_cast<uint64_t>(size)) throw std::runtime_error("its list of records lies outside of it");
    const std::string end64 =
        file.read(static_cast<int64_t>(place), std::min<int64_t>(kEnd64Bytes, size - static_cast<int64_t>(place)));
    if (!end64.starts_with(kEnd64)) throw std::runtime_error("its list of records lies nowhere");
    count = value_at<uint64_t>(end64, 32);
    bytes = value_at<uint64_t>(end64, 40);
    begin = value_at<uint64_t>(end64, 48);
  }
  const auto file_bytes = static_cast<uint64_t>(size);
  if (begin > file_bytes || bytes > file_bytes - begin || bytes > static_cast<uint64_t>(kMaxListBytes)) {
    throw std::runtime_error("its list of records lies outside of it");
  }
  return {count, file.read(static_cast<int64_t>(begin), static_cast<int64_t>(bytes))};
}

/// Unpacked and packed size of the record that `list` begins with.
struct RecordSizes {
  uint64_t unpacked = 0, packed = 0;
};

RecordSizes sizes_of(std::string_view list, size_t name_bytes, size_t extra_bytes) {
  RecordSizes sizes{value_at<uint32_t>(list, 24), value_at<uint32_t>(list, 20)};
  std::string_view extra = list.substr(std::min(kRecordBytes + name_bytes, list.size()));
  extra = extra.substr(0, extra_bytes);
  while (extra.size() >= 4) {
    const auto id = value_at<uint16_t>(extra, 0);
    const size_t bytes = value_at<uint16_t>(extra, 2);
    if (id == kExtra64) {
      size_t place = 4;  // only sizes that do not fit 32 bits stand here, in this order
      for (uint64_t* size : {&sizes.unpacked, &sizes.packed}) {
        if (*size != kIn64Bits) continue;
        *size = value_at<uint64_t>(extra, place);
        place += sizeof(uint64_t);
      }
    }
    extra.remove_prefix(std::min(4 + bytes, extra.size()));
  }
  return sizes;
}

}  // namespace

void check_is_zip_archive(const std::string& path, const std::string& not_what, const std::string& expected) {
  std::ifstream file(path, std::ios::binary);
  char magic[4] = {};
  if (!file.is_open()) {
    throw CommandError(fmt::format("{}: cannot be read; check its permissions", path));
  }
  file.read(magic, sizeof(magic));
  if (file.gcount() == 0) {
    throw CommandError(fmt::format("{}: is empty; {}", path, expected));
  }
  if (std::string_view(magic, static_cast<size_t>(file.gcount())) != std::string_view("PK\x03\x04", 4)) {
    throw CommandError(fmt::format("{}: {} (no zip archive); {}", path, not_what, expected));
  }
}

void check_records_are_stored(const std::string& path) {
  const plugin::RandomAccessFile file(path);
  const RecordList records = read_list(file);
  const auto file_bytes = static_cast<uint64_t>(file.size_bytes());
  std::string_view list = records.bytes;
  uint64_t total = 0;
  for (uint64_t record = 0; record < records.num_records; ++record) {
    if (!list.starts_with(kRecord)) throw std::runtime_error("its list of records is damaged");
    const auto method = value_at<uint16_t>(list, 10);
    const size_t name_bytes = value_at<uint16_t>(list, 28), extra_bytes = value_at<uint16_t>(list, 30),
                 comment_bytes = value_at<uint16_t>(list, 32);
    const RecordSizes sizes = sizes_of(list, name_bytes, extra_bytes);
    if (method != 0 || sizes.unpacked != sizes.packed) {
      throw std::runtime_error(
          fmt::format("its record {} is compressed, from {} bytes to {}; torch.save writes records as they are", record,
                      sizes.unpacked, sizes.packed));
    }
    if (sizes.packed > file_bytes - total) {
      throw std::runtime_error(
          fmt::format("its records overlap: they are larger than the file of {} bytes", file_bytes));
    }
    total += sizes.packed;
    list.remove_prefix(std::min(kRecordBytes + name_bytes + extra_bytes + comment_bytes, list.size()));
  }
}

}  // namespace moetap::cli
