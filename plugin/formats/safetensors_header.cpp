#include "plugin/formats/safetensors_header.h"

#include <c10/util/ArrayRef.h>
#include <c10/util/StringUtil.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>

#include "plugin/formats/json_text.h"

namespace moetap::plugin {
namespace {

static_assert(std::endian::native == std::endian::little, "safetensors files are little-endian");

struct DtypeName {
  const char* name;
  at::ScalarType dtype;
};

constexpr std::array kDtypes{
    DtypeName{"F64", at::kDouble},
    DtypeName{"F32", at::kFloat},
    DtypeName{"F16", at::kHalf},
    DtypeName{"BF16", at::kBFloat16},
    DtypeName{"I64", at::kLong},
    DtypeName{"I32", at::kInt},
    DtypeName{"I16", at::kShort},
    DtypeName{"I8", at::kChar},
    DtypeName{"U8", at::kByte},
    DtypeName{"BOOL", at::kBool},
    DtypeName{"U64", at::kUInt64},
    DtypeName{"U32", at::kUInt32},
    DtypeName{"U16", at::kUInt16},
    DtypeName{"F8_E5M2", at::kFloat8_e5m2},
    DtypeName{"F8_E4M3", at::kFloat8_e4m3fn},
    DtypeName{"F8_E8M0", at::kFloat8_e8m0fnu},
    DtypeName{"C64", at::kComplexFloat},
};

// More than any model has; a list of millions of dimensions must not reach LibTorch.
constexpr size_t kMaxDimensions = 64;

// Text from a file as one printable line of limited length.
std::string printable(const std::string& text) {
  constexpr size_t kLongest = 80;
  std::string line = ascii_text(nlohmann::json(text));
  return line.size() <= kLongest ? line : line.substr(0, kLongest) + "...\"";
}

[[noreturn]] void fail(const std::string& message) {
  throw std::runtime_error(message);
}

// Reads the header while it is parsed: deep nesting, duplicates or long lists in a hostile text take no memory.
class HeaderReader : public nlohmann::json_sax<nlohmann::json> {
 public:
  SafetensorsHeader take() { return std::move(header_); }

  bool start_object(std::size_t) override {
    if (place_ == Place::kFile) {
      place_ = Place::kHeader;
    } else if (place_ == Place::kEntry && field_.empty()) {
      place_ = name_ == "__metadata__" ? Place::kMetadata : Place::kTensor;
    } else {
      unexpected("an object");
    }
    return true;
  }

  bool end_object() override {
    switch (place_) {
      case Place::kTensor:
        finish_tensor();
        [[fallthrough]];
      case Place::kMetadata:
        place_ = Place::kHeader;
        break;
      default:
        place_ = Place::kEnd;
    }
    return true;
  }

  bool key(string_t& text) override {
    if (place_ == Place::kHeader) {
      if (!names_.insert(text).second) fail("tensor " + printable(text) + ": the name stands twice in the header");
      name_ = text;
      field_.clear();
      fields_.clear();
      entry_ = SafetensorsEntry{};
      entry_.name = text;
      offsets_.clear();
      place_ = Place::kEntry;
    } else if (place_ == Place::kMetadata) {
      if (header_.metadata.contains(text)) fail("__metadata__: the key " + printable(text) + " stands twice");
      field_ = text;
    } else {
      if (text != "dtype" && text != "shape" && text != "data_offsets") {
        fail(where() + ": expected dtype, shape and data_offsets, got " + printable(text));
      }
      if (!fields_.insert(text).second) fail(where() + ": " + text + " stands twice");
      field_ = text;
    }
    return true;
  }

  bool string(string_t& text) override {
    if (place_ == Place::kMetadata) {
      header_.metadata[field_] = text;
    } else if (place_ == Place::kTensor && field_ == "dtype") {
      const auto* known =
          std::find_if(kDtypes.begin(), kDtypes.end(), [&](const DtypeName& d) { return d.name == text; });
      if (known == kDtypes.end()) fail(where() + ": unknown dtype " + printable(text));
      entry_.dtype = known->dtype;
    } else {
      unexpected("the text " + printable(text));
    }
    return true;
  }

  bool start_array(std::size_t) override {
    if (place_ != Place::kTensor || field_ == "dtype") unexpected("a list");
    place_ = Place::kNumbers;
    return true;
  }

  bool end_array() override {
    place_ = Place::kTensor;
    return true;
  }

  bool number_unsigned(number_unsigned_t value) override {
    if (place_ != Place::kNumbers) unexpected("the number " + std::to_string(value));
    if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      fail(where() + ": " + field_ + ": the number " + std::to_string(value) + " is too large");
    }
    std::vector<int64_t>& numbers = field_ == "shape" ? entry_.shape : offsets_;
    if (numbers.size() >= (field_ == "shape" ? kMaxDimensions : 2)) {
      fail(where() + ": " + field_ + ": expected " +
           (field_ == "shape" ? c10::str("at most ", kMaxDimensions, " dimensions") : std::string("2 numbers")) +
           ", got more");
    }
    numbers.push_back(static_cast<int64_t>(value));
    return true;
  }

  bool number_integer(number_integer_t value) override { return wrong_number(std::to_string(value)); }
  bool number_float(number_float_t, const string_t& text) override { return wrong_number(text.substr(0, 40)); }
  bool null() override { unexpected("null"); }
  bool boolean(bool value) override { unexpected(value ? "true" : "false"); }
  bool binary(binary_t&) override { unexpected("binary data"); }

  bool parse_error(std::size_t position, const std::string&, const nlohmann::json::exception&) override {
    fail("the header is not JSON: wrong at its byte " + std::to_string(position));
  }

 private:
  enum class Place { kFile, kHeader, kEntry, kTensor, kNumbers, kMetadata, kEnd };

  std::string where() const { return name_ == "__metadata__" ? name_ : "tensor " + printable(name_); }

  bool wrong_number(const std::string& text) {
    if (place_ != Place::kNumbers) unexpected("the number " + text);
    fail(where() + ": " + field_ + " must hold whole numbers of 0 or more, got " + text);
  }

  [[noreturn]] void unexpected(const std::string& what) {
    switch (place_) {
      case Place::kFile:
        fail("the header must be a JSON object, got " + what);
      case Place::kEntry:
        fail(where() + ": expected an object, got " + what);
      case Place::kMetadata:
        fail("__metadata__: the value of " + printable(field_) + " must be a text, got " + what);
      default:
        fail(where() + ": " + field_ + ": got " + what +
             (field_ == "dtype" ? ", expected a text" : ", expected a list of whole numbers"));
    }
  }

  void finish_tensor() {
    for (const char* field : {"dtype", "shape", "data_offsets"}) {
      if (!fields_.contains(field)) fail(where() + ": " + field + " is missing");
    }
    if (offsets_.size() != 2) {
      fail(where() + ": data_offsets: expected 2 numbers, got " + std::to_string(offsets_.size()));
    }
    entry_.begin = offsets_[0];
    entry_.end = offsets_[1];
    header_.entries.push_back(std::move(entry_));
  }

  SafetensorsHeader header_;
  SafetensorsEntry entry_;
  std::vector<int64_t> offsets_;
  std::set<std::string> names_;   // of the entries so far
  std::set<std::string> fields_;  // of the entry so far
  std::string name_;              // of the entry
  std::string field_;             // dtype, shape, data_offsets, or a key of the metadata
  Place place_ = Place::kFile;
};

void check_size(const SafetensorsEntry& entry) {
  const auto element_bytes = static_cast<int64_t>(c10::elementSize(entry.dtype));
  int64_t elements = 1;
  int64_t elements_without_zeros = 1;  // LibTorch multiplies strides of empty tensors too
  for (const int64_t size : entry.shape) {
    if (size != 0 && elements_without_zeros > std::numeric_limits<int64_t>::max() / element_bytes / size) {
      fail("tensor " + printable(entry.name) + ": a tensor of shape " + c10::str(c10::IntArrayRef(entry.shape)) +
           " is too large");
    }
    elements_without_zeros *= size == 0 ? 1 : size;
    elements *= size;
  }
  if (entry.end < entry.begin || entry.end - entry.begin != elements * element_bytes) {
    fail(c10::str("tensor ", printable(entry.name), ": ", safetensors_dtype_name(entry.dtype), " of shape ",
                  c10::IntArrayRef(entry.shape), " needs ", elements * element_bytes, " bytes, data_offsets are [",
                  entry.begin, ", ", entry.end, "]"));
  }
}

}  // namespace

const char* safetensors_dtype_name(at::ScalarType dtype) {
  for (const DtypeName& known : kDtypes) {
    if (known.dtype == dtype) return known.name;
  }
  return nullptr;
}

SafetensorsHeader parse_safetensors_header(std::string_view json, int64_t data_bytes) {
  HeaderReader reader;
  nlohmann::json::sax_parse(json, &reader);
  SafetensorsHeader header = reader.take();
  std::stable_sort(header.entries.begin(), header.entries.end(),
                   [](const auto& a, const auto& b) { return std::pair(a.begin, a.end) < std::pair(b.begin, b.end); });
  int64_t covered = 0;
  for (const SafetensorsEntry& entry : header.entries) {
    check_size(entry);
    if (entry.begin != covered) {
      fail(c10::str("tensor ", printable(entry.name), ": data_offsets must begin at ", covered,
                    ", where the tensor before it ends, ", "got ", entry.begin,
                    entry.begin < covered ? " (overlap)" : " (gap)"));
    }
    if (entry.end > data_bytes) {
      fail(c10::str("tensor ", printable(entry.name), ": data_offsets end at ", entry.end, ", the file holds ",
                    data_bytes, " bytes of data (truncated?)"));
    }
    covered = entry.end;
  }
  if (covered != data_bytes) {
    fail(c10::str("the tensors end at ", covered, ", the file holds ", data_bytes, " bytes of data (trailing bytes)"));
  }
  return header;
}

std::string serialize_safetensors_header(const SafetensorsHeader& header) {
  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  if (!header.metadata.empty()) json["__metadata__"] = header.metadata;
  for (const SafetensorsEntry& entry : header.entries) {
    json[entry.name] = {{"dtype", safetensors_dtype_name(entry.dtype)},
                        {"shape", entry.shape},
                        {"data_offsets", {entry.begin, entry.end}}};
  }
  std::string text = compact_text(json);
  text.append((8 - text.size() % 8) % 8, ' ');
  const uint64_t length = text.size();
  std::string bytes(sizeof(length), '\0');
  std::memcpy(bytes.data(), &length, sizeof(length));
  return bytes + text;
}

}  // namespace moetap::plugin
