#include "cli/studies/partial_file.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstring>
#include <map>
#include <string_view>

#include "cli/terminal/command_error.h"
#include "plugin/formats/atomic_file.h"
#include "plugin/formats/checksum.h"
#include "plugin/formats/random_access_file.h"

namespace moetap::cli {
namespace {

constexpr std::string_view kMagic = "MOETAPPS";
constexpr uint32_t kVersion = 2;  // 2: counts of token ids stand together, no more layer by layer
constexpr size_t kChecksumBytes = sizeof(uint64_t);

template <typename Value>
void append(std::string& bytes, Value value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

template <typename Value>
Value take(std::string_view& bytes) {
  if (bytes.size() < sizeof(Value)) throw std::runtime_error("it is cut short");
  Value value;
  std::memcpy(&value, bytes.data(), sizeof(value));
  bytes.remove_prefix(sizeof(value));
  return value;
}

std::string_view take_bytes(std::string_view& bytes) {
  const auto size = take<uint64_t>(bytes);
  if (size > bytes.size()) throw std::runtime_error("it is cut short");
  const std::string_view taken = bytes.substr(0, size);
  bytes.remove_prefix(size);
  return taken;
}

Partial parse(std::string_view bytes) {
  if (!bytes.starts_with(kMagic)) throw std::runtime_error("is no partial of moetap analyze --shard");
  if (bytes.size() < kMagic.size() + kChecksumBytes) throw std::runtime_error("it is cut short");
  std::string_view rest = bytes.substr(kMagic.size());
  const auto version = take<uint32_t>(rest);
  if (version != kVersion) {
    throw std::runtime_error(fmt::format("is of version {} of the format, this moetap reads {}", version, kVersion));
  }
  uint64_t sum = 0;
  std::memcpy(&sum, bytes.data() + bytes.size() - kChecksumBytes, sizeof(sum));
  if (rest.size() < kChecksumBytes || sum != plugin::checksum(0, bytes.substr(0, bytes.size() - kChecksumBytes))) {
    throw std::runtime_error("is damaged: its checksum does not fit (cut short?)");
  }
  rest.remove_suffix(kChecksumBytes);
  const auto header = nlohmann::ordered_json::parse(take_bytes(rest));
  Partial partial;
  partial.what = header.at("what");
  partial.shard = header.at("shard").get<int64_t>();
  partial.num_shards = header.at("num_shards").get<int64_t>();
  while (!rest.empty()) partial.studies.emplace_back(take_bytes(rest));
  if (partial.studies.size() != partial.what.at("studies").size() || partial.num_shards < 1 || partial.shard < 0 ||
      partial.shard >= partial.num_shards) {
    throw std::runtime_error("is damaged: its header does not fit its studies");
  }
  return partial;
}

}  // namespace

void write_partial(const Partial& partial, const std::string& path) {
  const std::string header = nlohmann::ordered_json{
      {"shard", partial.shard},
      {"num_shards", partial.num_shards},
      {"what", partial.what}}.dump();
  std::string bytes(kMagic);
  append(bytes, kVersion);
  append(bytes, static_cast<uint64_t>(header.size()));
  bytes += header;
  for (const std::string& study : partial.studies) {
    append(bytes, static_cast<uint64_t>(study.size()));
    bytes += study;
  }
  append(bytes, plugin::checksum(0, bytes));
  plugin::AtomicFile file(path);
  file.write(bytes);
  file.commit();
}

Partial read_partial(const std::string& path) {
  try {
    const plugin::RandomAccessFile file(path);
    return parse(file.read(0, file.size_bytes()));
  } catch (const std::exception& error) {
    const std::string reason = error.what();
    throw CommandError(reason.find(path) == std::string::npos ? fmt::format("{}: {}", path, reason) : reason);
  }
}

void check_partials(const std::vector<Partial>& partials, const std::vector<std::string>& paths) {
  std::map<int64_t, std::string> seen;
  for (size_t i = 0; i < partials.size(); ++i) {
    for (const auto& [key, value] : partials.front().what.items()) {
      if (partials[i].what.contains(key) && partials[i].what.at(key) == value) continue;
      throw CommandError(
          fmt::format("{} and {} are of different analyses: their {} differ", paths.front(), paths[i], key));
    }
    if (partials[i].what.size() != partials.front().what.size() ||
        partials[i].num_shards != partials.front().num_shards) {
      throw CommandError(fmt::format("{} and {} are of different analyses: one of {} shards, one of {}", paths.front(),
                                     paths[i], partials.front().num_shards, partials[i].num_shards));
    }
    const auto [found, is_new] = seen.emplace(partials[i].shard, paths[i]);
    if (!is_new) {
      throw CommandError(fmt::format("{} and {} are the same shard, {}/{}: each may be merged once", found->second,
                                     paths[i], partials[i].shard, partials[i].num_shards));
    }
  }
  constexpr size_t kMostNamed = 16;
  const int64_t count = partials.front().num_shards;
  std::vector<std::string> missing;
  for (int64_t shard = 0; shard < count && missing.size() <= kMostNamed; ++shard) {
    if (!seen.contains(shard)) missing.push_back(fmt::format("{}/{}", shard, count));
  }
  if (missing.empty()) return;
  if (missing.size() > kMostNamed) missing.back() = "more";
  throw CommandError(fmt::format("{} {} {} missing: name all partials of the analysis",
                                 missing.size() == 1 ? "shard" : "shards", fmt::join(missing, ", "),
                                 missing.size() == 1 ? "is" : "are"));
}

}  // namespace moetap::cli
