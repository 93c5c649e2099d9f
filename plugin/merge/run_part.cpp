#include "plugin/merge/run_part.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <stdexcept>
#include <utility>

#include "plugin/formats/byte_stream.h"
#include "plugin/records/model_description_json.h"
#include "plugin/results/json_keys.h"

namespace moetap::plugin {
namespace {

/// Takes one record of a frame and says how long it is.
template <typename Take>
void for_records(const Frame& frame, const Take& take) {
  ByteReader bytes(frame.payload);
  while (!bytes.at_end()) {
    const size_t before = bytes.size();
    const int64_t begin = frame.payload_begin + static_cast<int64_t>(frame.payload.size() - before);
    auto& record = take(bytes);
    record.begin = begin;
    record.bytes = static_cast<uint32_t>(before - bytes.size());
  }
}

}  // namespace

RunPart::RunPart(const std::string& run_dir, int64_t rank, bool is_only_rank)
    : name_(is_only_rank ? run_dir : fmt::format("{} (rank {})", run_dir, rank)), rank_(rank), paths_(run_dir, rank) {
  path_ = sums_path(paths_);
  if (!std::filesystem::exists(path_)) {
    throw std::runtime_error(
        path_ + ": is not there: an earlier moetap wrote the run, which keeps no sums and cannot be merged");
  }
  file_ = std::make_unique<RandomAccessFile>(path_);
  FrameReader frames(path_);
  try {
    while (auto frame = frames.next()) take(std::move(*frame));
  } catch (const nlohmann::json::exception&) {
    damaged();
  } catch (const std::invalid_argument&) {
    damaged();
  } catch (const std::runtime_error& error) {
    if (std::string_view(error.what()).find(path_) != std::string_view::npos) throw;
    damaged();
  }
  if (frames.whole_bytes() != frames.size_bytes() || !start_ || !ending_) damaged();
  std::sort(samples_.begin(), samples_.end());
  samples_.erase(std::unique(samples_.begin(), samples_.end()), samples_.end());
}

void RunPart::damaged() const {
  throw std::runtime_error(path_ + ": is damaged, so this run cannot be merged");
}

void RunPart::take(Frame frame) {
  switch (frame.kind) {
    case kRunStarted:
      try {
        start_ = read_run_start(path_);
      } catch (const std::runtime_error&) {
        throw std::runtime_error(path_ + ": was written by another version of moetap, which can merge it");
      }
      break;
    case kModelAdded:
      models_.push_back(std::make_shared<const ModelDescription>(model_description_from_text(frame.payload)));
      break;
    case kHookPlaced:
    case kMethodRan:
    case kColumnWithheld:
      descriptions_.push_back(std::move(frame));
      break;
    case kSeriesNamed:
      series_.push_back(frame.payload);
      break;
    case kForwardsDumped:
      take_forwards(frame);
      break;
    case kLogged:
      take_entries(frame);
      break;
    case kRunEnded:
      ending_ = run_ending_from_text(frame.payload, path_);
      break;
    default:
      break;  // kProbed, kSummed: `for_frames`
  }
}

void RunPart::take_entries(const Frame& frame) {
  for_records(frame, [&](ByteReader& bytes) -> Entry& {
    Entry& entry = entries_.emplace_back();
    entry.doc_id = bytes.number();
    entry.numbered = bytes.count() != 0;
    const uint64_t number = bytes.count();
    if (number == 0) damaged();
    for (uint64_t i = 0; i < number; ++i) {
      samples_.push_back(bytes.number());
      if (i == 0) entry.first_sample = samples_.back();
    }
    return entry;
  });
}

void RunPart::take_forwards(const Frame& frame) {
  for_records(frame, [&](ByteReader& bytes) -> Forward& {
    Forward& forward = forwards_.emplace_back();
    forward.first_sample = bytes.number();
    forward.index = bytes.number();
    for (uint64_t left = bytes.count(); left > 0; --left) {
      if (bytes.count() >= series_.size()) damaged();
      if (bytes.number() < 0 || bytes.number() < 0) damaged();
    }
    return forward;
  });
}

std::vector<int64_t> RunPart::samples_of(const Entry& entry) const {
  const std::string record = file_->read(entry.begin, entry.bytes);
  ByteReader bytes(record);
  bytes.number();
  bytes.count();
  std::vector<int64_t> samples;
  for (uint64_t left = bytes.count(); left > 0; --left) samples.push_back(bytes.number());
  return samples;
}

std::vector<ForwardExtents::Extent> RunPart::extents_of(const Forward& forward) const {
  const std::string record = file_->read(forward.begin, forward.bytes);
  ByteReader bytes(record);
  bytes.number();
  bytes.number();
  std::vector<ForwardExtents::Extent> extents;
  for (uint64_t left = bytes.count(); left > 0; --left) {
    ForwardExtents::Extent extent{series_.at(bytes.count())};
    extent.begin = bytes.number();
    extent.rows = bytes.number();
    extents.push_back(std::move(extent));
  }
  return extents;
}

void RunPart::for_frames(uint32_t kind, const std::function<void(std::string_view payload)>& use) const {
  FrameReader frames(path_);
  while (const auto frame = frames.next()) {
    if (frame->kind == kind) use(frame->payload);
  }
}

}  // namespace moetap::plugin
