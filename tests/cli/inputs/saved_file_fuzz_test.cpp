#include <ATen/ops/arange.h>
#include <ATen/ops/ones.h>
#include <caffe2/serialize/inline_container.h>
#include <gtest/gtest.h>
#include <torch/csrc/jit/serialization/pickle.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <string>

#include "cli/inputs/saved_value.h"
#include "plugin/formats/safetensors.h"
#include "plugin/formats/safetensors_header.h"
#include "plugin/process/error_text.h"
#include "tests/support/damaged_bytes.h"

// Files of tensors that are damaged in any way are read or refused with one line, as
// tests/cli/studies/reader_fuzz_test.

namespace moetap::cli {
namespace {

namespace fs = std::filesystem;

class SavedFileFuzz : public ::testing::Test {
 protected:
  SavedFileFuzz() : folder_(fs::temp_directory_path() / ("moetap-saved-" + std::to_string(::getpid()))) {
    fs::create_directories(folder_);
  }
  ~SavedFileFuzz() override { fs::remove_all(folder_); }

  std::string path(const char* name) const { return (folder_ / name).string(); }

  static void read_damaged(const std::string& whole, int64_t rounds,
                           const std::function<void(const std::string&)>& read) {
    std::mt19937_64 random(5);
    int64_t refused = 0;
    for (int64_t round = 0; round < tests::fuzz_rounds(rounds); ++round) {
      try {
        read(tests::damaged(whole, random));
      } catch (const std::exception& error) {
        ++refused;
        ASSERT_EQ(plugin::one_line(error).find('\n'), std::string::npos);
      }
    }
    EXPECT_GT(refused, 0);
    EXPECT_LT(refused, tests::fuzz_rounds(rounds));
  }

  fs::path folder_;
};

void write(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

/// Reads every value of a tensor: one that lies outside of its memory is found by the sanitizer.
void look_at(const c10::IValue& value) {
  value.visit([](const c10::IValue& part) {
    if (!part.isTensor() || !part.toTensor().defined() || part.toTensor().numel() > (1 << 20)) return false;
    const at::Tensor whole = part.toTensor().contiguous();
    int64_t sum = 0;
    const auto* bytes = static_cast<const uint8_t*>(whole.const_data_ptr());
    for (size_t i = 0; i < whole.nbytes(); ++i) sum += bytes[i];
    EXPECT_GE(sum, 0);
    return false;
  });
}

c10::IValue saved() {
  c10::impl::GenericDict layers(c10::StringType::get(), c10::TensorType::get());
  for (int64_t layer = 0; layer < 3; ++layer) {
    layers.insert(std::to_string(layer), at::arange(24, at::kFloat).reshape({2, 3, 4}) + layer);
  }
  return layers;
}

TEST_F(SavedFileFuzz, ArchivesOfAnyBytes) {
  const std::vector<char> bytes = torch::jit::pickle_save(saved());
  read_damaged({bytes.begin(), bytes.end()}, 5000, [&](const std::string& damaged) {
    write(path("damaged.pt"), damaged);
    look_at(read_saved_value(path("damaged.pt")));
  });
}

/// Whole archives of other pickles: what the sums of an archive do not find.
TEST_F(SavedFileFuzz, PicklesOfAnyBytes) {
  const std::vector<char> bytes = torch::jit::pickle_save(saved());
  write(path("whole.pt"), {bytes.begin(), bytes.end()});
  caffe2::serialize::PyTorchStreamReader archive(path("whole.pt"));
  const auto [data, size] = archive.getRecord("data.pkl");
  const std::string pickle(static_cast<const char*>(data.get()), size);
  read_damaged(pickle, 5000, [&](const std::string& damaged) {
    {
      caffe2::serialize::PyTorchStreamWriter writer(path("damaged.pt"));
      writer.writeRecord("data.pkl", damaged.data(), damaged.size());
      for (const std::string& name : archive.getAllRecords()) {
        if (name.rfind("data/", 0) != 0) continue;
        const auto [record, record_bytes] = archive.getRecord(name);
        writer.writeRecord(name, record.get(), record_bytes);
      }
      writer.writeEndOfFile();
    }
    look_at(read_saved_value(path("damaged.pt")));
  });
}

/// A pickle that says that a tensor is larger than what it lies in.
TEST_F(SavedFileFuzz, TensorsBeyondTheirRecords) {
  const std::vector<char> bytes = torch::jit::pickle_save(at::ones({2, 100}));
  write(path("whole.pt"), {bytes.begin(), bytes.end()});
  caffe2::serialize::PyTorchStreamReader archive(path("whole.pt"));
  const auto [data, size] = archive.getRecord("data.pkl");
  std::string pickle(static_cast<const char*>(data.get()), size);
  for (size_t place = 0; place + 1 < pickle.size(); ++place) {  // every 100 and 200 of one byte (BININT1) is 250
    const auto number = static_cast<uint8_t>(pickle[place + 1]);
    if (pickle[place] == 'K' && (number == 100 || number == 200)) pickle[place + 1] = static_cast<char>(250);
  }
  {
    caffe2::serialize::PyTorchStreamWriter writer(path("larger.pt"));
    writer.writeRecord("data.pkl", pickle.data(), pickle.size());
    const auto [record, record_bytes] = archive.getRecord("data/0");
    writer.writeRecord("data/0", record.get(), record_bytes);
    writer.writeEndOfFile();
  }
  look_at(read_saved_value(path("whole.pt")));
  try {
    read_saved_value(path("larger.pt"));
    FAIL() << "was read";
  } catch (const std::exception& error) {
    EXPECT_NE(std::string(error.what()).find("larger than its record"), std::string::npos) << error.what();
  }
}

/// Tuples in tuples, each a byte of the pickle; and an entry far behind the end of the memo.
TEST_F(SavedFileFuzz, PicklesThatAskForMore) {
  const auto read = [&](const std::string& pickle) {
    {
      caffe2::serialize::PyTorchStreamWriter writer(path("more.pt"));
      writer.writeRecord("data.pkl", pickle.data(), pickle.size());
      writer.writeEndOfFile();
    }
    return read_saved_value(path("more.pt"));
  };
  const auto nested = [](size_t depth) { return "\x80\x02)" + std::string(depth, '\x85') + "."; };
  EXPECT_TRUE(read(nested(1000)).isTuple());
  EXPECT_TRUE(read(nested(20000)).isTuple());
  EXPECT_THROW(read(nested(20001)), std::exception);
  EXPECT_THROW(read(nested(3000000)), std::exception);
  EXPECT_THROW(read(std::string("\x80\x02)r\xff\xff\xff\x7f.", 9)), std::exception);
}

TEST_F(SavedFileFuzz, SafetensorsOfAnyBytes) {
  plugin::SafetensorsHeader header;
  header.metadata = {{"a", "b"}};
  header.entries.push_back({"0", at::kFloat, {2, 3}, 0, 24});
  header.entries.push_back({"1", at::kBFloat16, {2, 2}, 24, 32});
  const std::string whole = plugin::serialize_safetensors_header(header) + std::string(32, '\1');
  read_damaged(whole, 20000, [&](const std::string& damaged) {
    write(path("damaged.safetensors"), damaged);
    for (const auto& [name, tensor] : plugin::read_safetensors(path("damaged.safetensors")).tensors) look_at(tensor);
  });
}

}  // namespace
}  // namespace moetap::cli
