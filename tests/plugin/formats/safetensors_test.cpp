#include "plugin/formats/safetensors.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstring>
#include <functional>

#include "tests/plugin/support/temporary_folder.h"

namespace moetap::plugin {
namespace {

std::string file_bytes(uint64_t header_bytes, const std::string& header, const std::string& data) {
  std::string bytes(sizeof(header_bytes), '\0');
  std::memcpy(bytes.data(), &header_bytes, sizeof(header_bytes));
  return bytes + header + data;
}

std::string file_bytes(const std::string& header, const std::string& data) {
  return file_bytes(header.size(), header, data);
}

class SafetensorsTest : public ::testing::Test {
 protected:
  // What reading these bytes is refused with, without the file's name, which must come first.
  std::string refusal(const std::string& bytes) {
    const std::string path = folder_.file("hostile.safetensors");
    write_text_file(path, bytes);
    try {
      read_safetensors(path);
    } catch (const std::runtime_error& error) {
      const std::string message = error.what();
      EXPECT_EQ(message.find('\n'), std::string::npos) << message;
      EXPECT_EQ(message.rfind(path + ": ", 0), 0u) << message;
      return message.substr(path.size() + 2);
    }
    return "read";
  }

  std::string header_refusal(const std::string& header, size_t data_bytes = 4) {
    return refusal(file_bytes(header, std::string(data_bytes, '\0')));
  }

  TemporaryFolder folder_;
};

TEST_F(SafetensorsTest, WritesWhatItReads) {
  SafetensorsFile file;
  for (const at::ScalarType dtype : {at::kDouble, at::kFloat, at::kHalf, at::kBFloat16, at::kLong, at::kInt, at::kShort,
                                     at::kChar, at::kByte, at::kBool}) {
    file.tensors[std::string("a.") + c10::toString(dtype)] = at::arange(6).reshape({2, 3}).to(dtype);
  }
  file.tensors["empty"] = at::empty({0, 5}, at::kFloat);
  file.tensors["number"] = at::scalar_tensor(2.5, at::kFloat);
  file.tensors["transposed"] = at::arange(6).reshape({2, 3}).t();
  for (const at::ScalarType dtype : {at::kUInt16, at::kUInt32, at::kUInt64, at::kFloat8_e5m2, at::kFloat8_e4m3fn}) {
    file.tensors[std::string("b.") + c10::toString(dtype)] = at::arange(6).to(dtype);
  }
  file.metadata = {{"rank", "0"}, {"text", "quote \" and\nline \xC3\xA4"}};
  const std::string path = folder_.file("a.safetensors");
  write_safetensors(path, file);

  const SafetensorsFile read = read_safetensors(path);
  EXPECT_EQ(read.metadata, file.metadata);
  ASSERT_EQ(read.tensors.size(), file.tensors.size());
  for (const auto& [name, tensor] : file.tensors) {
    ASSERT_TRUE(read.tensors.contains(name)) << name;
    const at::Tensor& back = read.tensors.at(name);
    EXPECT_EQ(back.scalar_type(), tensor.scalar_type()) << name;
    EXPECT_EQ(back.sizes(), tensor.sizes()) << name;
    EXPECT_TRUE(at::equal(back.to(at::kDouble), tensor.to(at::kDouble))) << name;
  }
}

TEST_F(SafetensorsTest, AlignsEveryTensor) {
  const std::string path = folder_.file("a.safetensors");
  write_safetensors(path, {{{"a", at::ones({3}, at::kByte)}, {"b", at::ones({1}, at::kDouble)}}, {{"k", "v"}}});
  const std::string bytes = read_text_file(path);
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, bytes.data(), sizeof(header_bytes));
  EXPECT_EQ(header_bytes % 8, 0u);
  EXPECT_EQ(bytes.size(), 8 + header_bytes + 11);
  double first = 0;
  std::memcpy(&first, bytes.data() + 8 + header_bytes, sizeof(first));
  EXPECT_EQ(first, 1.0);
}

TEST_F(SafetensorsTest, ReadsAFileWithoutTensors) {
  const std::string path = folder_.file("a.safetensors");
  write_text_file(path, file_bytes("{}", ""));
  EXPECT_TRUE(read_safetensors(path).tensors.empty());
  write_safetensors(path, {});
  EXPECT_TRUE(read_safetensors(path).tensors.empty());
}

TEST_F(SafetensorsTest, RefusesWhatIsNoFile) {
  const auto message = [](const std::string& path) -> std::string {
    try {
      read_safetensors(path);
    } catch (const std::runtime_error& error) {
      return error.what();
    }
    return "read";
  };
  EXPECT_EQ(message(folder_.file("none")), "cannot read " + folder_.file("none") + ": No such file or directory");
  EXPECT_EQ(message(folder_.path()), "cannot read " + folder_.path() + ": not a regular file");
  const std::string pipe = folder_.file("pipe");
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_EQ(message(pipe), "cannot read " + pipe + ": not a regular file");
}

TEST_F(SafetensorsTest, RefusesAWrongLength) {
  EXPECT_EQ(refusal(""), "expected the 8 bytes of the header's length, the file holds 0");
  EXPECT_EQ(refusal("1234567"), "expected the 8 bytes of the header's length, the file holds 7");
  EXPECT_EQ(refusal(file_bytes(10, "{}", "")),
            "the header needs 10 bytes, the file holds 2 after its length (truncated?)");
  EXPECT_EQ(refusal(file_bytes(~uint64_t{0}, "{}", "")),
            "a header of 18446744073709551615 bytes is longer than 100000000 (is this a safetensors file?)");
  EXPECT_EQ(refusal("PK\x03\x04 a zip file of a model"),
            "a header of 8800140462016121680 bytes is longer than 100000000 (is this a safetensors file?)");
}

TEST_F(SafetensorsTest, RefusesWhatIsNoHeader) {
  EXPECT_EQ(header_refusal(""), "the header is not JSON: wrong at its byte 1");
  EXPECT_EQ(header_refusal("{\"a\":"), "the header is not JSON: wrong at its byte 6");
  EXPECT_EQ(header_refusal("{} x"), "the header is not JSON: wrong at its byte 4");
  EXPECT_EQ(header_refusal("{\"\xFF\": 1}"), "the header is not JSON: wrong at its byte 3");
  EXPECT_EQ(header_refusal("[]"), "the header must be a JSON object, got a list");
  EXPECT_EQ(header_refusal("3"), "the header must be a JSON object, got the number 3");
  EXPECT_EQ(header_refusal("null"), "the header must be a JSON object, got null");
  EXPECT_EQ(header_refusal(std::string(1'000'000, '[')), "the header must be a JSON object, got a list");
  EXPECT_EQ(header_refusal("{\"a\": 1}"), "tensor \"a\": expected an object, got the number 1");
  EXPECT_EQ(header_refusal("{\"a\": [1]}"), "tensor \"a\": expected an object, got a list");
  EXPECT_EQ(header_refusal("{\"__metadata__\": {\"k\": 1}}"),
            "__metadata__: the value of \"k\" must be a text, got the number 1");
  EXPECT_EQ(header_refusal("{\"__metadata__\": {\"k\": {}}}"),
            "__metadata__: the value of \"k\" must be a text, got an object");
  EXPECT_EQ(header_refusal("{\"__metadata__\": {\"k\": \"1\", \"k\": \"2\"}}"),
            "__metadata__: the key \"k\" stands twice");
}

TEST_F(SafetensorsTest, RefusesAWrongEntry) {
  const auto entry = [](const std::string& fields) { return "{\"a\":{" + fields + "}}"; };
  EXPECT_EQ(header_refusal(entry("")), "tensor \"a\": dtype is missing");
  EXPECT_EQ(header_refusal(entry(R"("dtype":"F32","shape":[1])")), "tensor \"a\": data_offsets is missing");
  EXPECT_EQ(header_refusal(entry(R"("dtype":"F31","shape":[1],"data_offsets":[0,4])")),
            "tensor \"a\": unknown dtype \"F31\"");
  EXPECT_EQ(header_refusal(entry(R"("dtype":7,"shape":[1],"data_offsets":[0,4])")),
            "tensor \"a\": dtype: got the number 7, expected a text");
  EXPECT_EQ(header_refusal(entry(R"("dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4])")),
            "tensor \"a\": dtype stands twice");
  EXPECT_EQ(header_refusal(entry(R"("dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1)")),
            "tensor \"a\": expected dtype, shape and data_offsets, got \"x\"");
  EXPECT_EQ(header_refusal(entry(R"("dtype":"F32","shape":[-1],"data_offsets":[0,4])")),
            "tensor \"a\": shape must hold whole numbers of 0 or more, got -1");
  EXPECT_EQ(header_refusal(entry(R"("dtype":"F32","shape":[1.5],"data_offsets":[0,4])")),
            "tensor \"a\": shape must hold whole numbers of 0 or more, got 1.5");
  EXPECT_EQ(header_refusal(entry(R"("dtype":"F32","shape":[99999999999999999999],"data_offsets":[0,4])")),
            "tensor \"a\": shape must hold whole numbers of 0 or more, got 99999999999999999999");
  EXPECT_EQ(header_refusal(entry(R"("dtype":"F32","shape":[9223372036854775808],"data_offsets":[0,4])")),
            "tensor \"a\": shape: the number 9223372036854775808 is too large");
  EXPECT_EQ(header_refusal(entry(R"("dtype":"F32","shape":"1","data_offsets":[0,4])")),
            "tensor \"a\": shape: got the text \"1\", expected a list of whole numbers");
  EXPECT_EQ(header_refusal(entry(R"("dtype":"F32","shape":[[1]],"data_offsets":[0,4])")),
            "tensor \"a\": shape: got a list, expected a list of whole numbers");
  EXPECT_EQ(header_refusal(entry(R"("dtype":"F32","shape":[1],"data_offsets":[0,4,8])")),
            "tensor \"a\": data_offsets: expected 2 numbers, got more");
  EXPECT_EQ(header_refusal(entry(R"("dtype":"F32","shape":[1],"data_offsets":[0])")),
            "tensor \"a\": data_offsets: expected 2 numbers, got 1");
  std::string ones = "1";
  for (int i = 0; i < 64; ++i) ones += ",1";
  EXPECT_EQ(header_refusal(entry("\"dtype\":\"F32\",\"shape\":[" + ones + "],\"data_offsets\":[0,4]")),
            "tensor \"a\": shape: expected at most 64 dimensions, got more");
}

TEST_F(SafetensorsTest, RefusesSizesThatDoNotFit) {
  const auto entry = [](const std::string& name, const std::string& shape, const std::string& offsets) {
    return "\"" + name + R"(":{"dtype":"F32","shape":[)" + shape + R"(],"data_offsets":[)" + offsets + "]}";
  };
  const auto header = [](const std::string& entries) { return "{" + entries + "}"; };
  EXPECT_EQ(header_refusal(header(entry("a", "2", "0,4"))),
            "tensor \"a\": F32 of shape [2] needs 8 bytes, data_offsets are [0, 4]");
  EXPECT_EQ(header_refusal(header(entry("a", "1", "4,0"))),
            "tensor \"a\": F32 of shape [1] needs 4 bytes, data_offsets are [4, 0]");
  EXPECT_EQ(header_refusal(header(entry("a", "4611686018427387904,4", "0,4"))),
            "tensor \"a\": a tensor of shape [4611686018427387904, 4] is too large");
  EXPECT_EQ(header_refusal(header(entry("a", "4611686018427387904,4,0", "0,0")), 0),
            "tensor \"a\": a tensor of shape [4611686018427387904, 4, 0] is too large");
  EXPECT_EQ(header_refusal(header(entry("a", "1", "0,4")), 3),
            "tensor \"a\": data_offsets end at 4, the file holds 3 bytes of data (truncated?)");
  EXPECT_EQ(header_refusal(header(entry("a", "1", "0,4")), 5),
            "the tensors end at 4, the file holds 5 bytes of data (trailing bytes)");
  EXPECT_EQ(header_refusal(header(entry("a", "1", "4,8")), 8),
            "tensor \"a\": data_offsets must begin at 0, where the tensor before it ends, got 4 (gap)");
  EXPECT_EQ(header_refusal(header(entry("a", "2", "0,8") + "," + entry("b", "1", "4,8")), 8),
            "tensor \"b\": data_offsets must begin at 8, where the tensor before it ends, got 4 (overlap)");
  EXPECT_EQ(header_refusal(header(entry("a", "1", "0,4") + "," + entry("a", "1", "4,8")), 8),
            "tensor \"a\": the name stands twice in the header");
  EXPECT_EQ(
      header_refusal(header(entry("a", "1", "9223372036854775803,9223372036854775807")), 8),
      "tensor \"a\": data_offsets must begin at 0, where the tensor before it ends, got 9223372036854775803 (gap)");
}

TEST_F(SafetensorsTest, ShowsHostileNamesInOneShortLine) {
  const std::string name(1000, 'n');
  const std::string message = header_refusal("{\"" + name + "\": 1}");
  EXPECT_LT(message.size(), 200u);
  EXPECT_EQ(header_refusal("{\"a\\nb\\u001b\": 1}"), "tensor \"a\\nb\\u001b\": expected an object, got the number 1");
}

TEST_F(SafetensorsTest, RefusesBoolsThatAreNeither0Nor1) {
  EXPECT_EQ(refusal(file_bytes(R"({"a":{"dtype":"BOOL","shape":[2],"data_offsets":[0,2]}})", std::string("\1\2"))),
            "tensor \"a\": BOOL must hold bytes 0 and 1, got 2");
}

TEST_F(SafetensorsTest, EveryTruncationIsRefused) {
  const std::string path = folder_.file("a.safetensors");
  write_safetensors(path, {{{"a", at::ones({3}, at::kFloat)}, {"b", at::ones({2}, at::kLong)}}, {{"k", "v"}}});
  const std::string bytes = read_text_file(path);
  for (size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_NE(refusal(bytes.substr(0, size)), "read") << size;
  }
  EXPECT_EQ(refusal(bytes), "read");
}

TEST_F(SafetensorsTest, AFailedWriteLeavesNoFile) {
  const std::string path = folder_.file("none/a.safetensors");
  try {
    write_safetensors(path, {{{"a", at::ones({3})}}, {}});
    FAIL() << "written";
  } catch (const std::runtime_error& error) {
    EXPECT_EQ(std::string(error.what()), "cannot write " + path + ": No such file or directory");
  }
  try {
    write_safetensors(folder_.file("b"), {{{"a", at::ones({3}, at::kComplexDouble)}}, {}});
    FAIL() << "written";
  } catch (const std::runtime_error& error) {
    EXPECT_EQ(std::string(error.what()),
              "cannot write " + folder_.file("b") + ": tensor \"a\": safetensors has no dtype for ComplexDouble");
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder_.path()));
}

}  // namespace
}  // namespace moetap::plugin
