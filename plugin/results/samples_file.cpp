#include "plugin/results/samples_file.h"

#include <algorithm>
#include <fstream>
#include <initializer_list>
#include <stdexcept>

#include "plugin/formats/atomic_file.h"
#include "plugin/results/json_keys.h"

namespace moetap::plugin {
namespace {

using nlohmann::ordered_json;

struct Field {
  const JsonKey& key;
  ordered_json by_default;
};

// The fields of LibMoE's log that describe the sample, in the order in which they are written.
std::vector<Field> fields_of_a_sample() {
  return {{keys::kTarget, ""},
          {keys::kDoc, ordered_json::object()},
          {keys::kArguments, ordered_json::array()},
          {keys::kResponses, ordered_json::array()},
          {keys::kFilteredResponses, ordered_json::array()},
          {keys::kDomain, ordered_json::array()}};
}

bool is_blank(const std::string& text) {
  return text.find_first_not_of(" \t\r") == std::string::npos;
}

int64_t check_line(const std::string& text, int64_t sample, const std::string& where) {
  const ordered_json fields = ordered_json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (fields.is_discarded()) throw std::runtime_error(where + ": is not JSON; each line must be one JSON object");
  if (!fields.is_object()) {
    throw std::runtime_error(where + ": must be a JSON object, got " + std::string(fields.type_name()));
  }
  for (const JsonKey* reserved : {&keys::kLogsVision, &keys::kLogsMlp, &keys::kLogsMoe}) {
    if (fields.contains(reserved->name)) {
      throw std::runtime_error(where + ": \"" + reserved->name + "\" is written by moetap and cannot be given");
    }
  }
  const auto doc = fields.find(keys::kDoc.name);
  if (doc != fields.end() && !doc->is_object()) {
    throw std::runtime_error(where + ": \"doc\" must be an object, got " + std::string(doc->type_name()));
  }
  for (const JsonKey* list : {&keys::kArguments, &keys::kResponses, &keys::kFilteredResponses, &keys::kDomain}) {
    const auto value = fields.find(list->name);
    if (value != fields.end() && !value->is_array()) {
      throw std::runtime_error(where + ": \"" + list->name + "\" must be a list, got " +
                               std::string(value->type_name()));
    }
  }
  const auto doc_id = fields.find(keys::kDocId.name);
  if (doc_id == fields.end()) return sample;
  if (!doc_id->is_number_integer()) {
    throw std::runtime_error(where + ": \"doc_id\" must be a whole number, got " + doc_id->dump().substr(0, 80));
  }
  return doc_id->get<int64_t>();
}

}  // namespace

SamplesFile::SamplesFile(const std::string& path) {
  if (path.empty()) return;
  file_ = std::make_unique<RandomAccessFile>(path);
  std::ifstream stream(path, std::ios::binary);
  std::string text;
  int64_t begin = 0;
  int64_t number = 0;
  while (std::getline(stream, text)) {
    const int64_t end = begin + static_cast<int64_t>(text.size());
    ++number;
    if (!is_blank(text)) {
      doc_ids_.push_back(check_line(text, size(), path + ": line " + std::to_string(number)));
      lines_.push_back({begin, end});
    }
    begin = end + 1;
  }
  if (stream.bad()) throw std::runtime_error("cannot read " + path);
}

int64_t SamplesFile::doc_id(int64_t sample, int64_t otherwise) const {
  return has(sample) ? doc_ids_[static_cast<size_t>(sample)] : otherwise;
}

ordered_json SamplesFile::given(int64_t sample) const {
  if (!has(sample)) return ordered_json::object();
  const Line& place = lines_[static_cast<size_t>(sample)];
  const ordered_json fields =
      ordered_json::parse(file_->read(place.begin, place.end - place.begin), nullptr, /*allow_exceptions=*/false);
  if (!fields.is_object()) throw std::runtime_error("cannot read " + file_->path() + ": it was changed during the run");
  return fields;
}

ordered_json SamplesFile::fields(int64_t sample, int64_t doc_id) const {
  ordered_json given_fields = given(sample);
  ordered_json entry = {{keys::kDocId.name, doc_id}};
  for (const Field& field : fields_of_a_sample()) {
    const auto value = given_fields.find(field.key.name);
    entry[field.key.name] = value == given_fields.end() ? field.by_default : *value;
  }
  for (auto& [name, value] : given_fields.items()) {
    if (!entry.contains(name)) entry[name] = std::move(value);
  }
  return entry;
}

void SamplesFile::copy_to(const std::string& path) const {
  if (!file_) return;
  constexpr int64_t kBlockBytes = int64_t{1} << 20;
  AtomicFile copy(path, AtomicFile::Readers::kOwner);
  for (int64_t begin = 0; begin < file_->size_bytes(); begin += kBlockBytes) {
    copy.write(file_->read(begin, std::min(kBlockBytes, file_->size_bytes() - begin)));
  }
  copy.commit();
}

}  // namespace moetap::plugin
