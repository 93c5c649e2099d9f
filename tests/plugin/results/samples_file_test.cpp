#include "plugin/results/samples_file.h"

#include <gtest/gtest.h>

#include "tests/plugin/support/synthetic_forward.h"

namespace moetap::plugin {
namespace {

using nlohmann::json;

at::Tensor random_logits(int64_t seed, at::IntArrayRef sizes) {
  return seeded_logits(seed, sizes) * 2;
}

TEST(SamplesFileTest, SamplesGiveTheFieldsAndTheOrder) {
  const auto model = describe({{"language_model", "0"}});
  ForwardRecord record = forward_of(model, {0, 1, 2});
  record.routers = {observe_router({.hook = 0}, random_logits(3, {3, 2, 4}))};
  SyntheticRun run;
  write_text_file(
      run.folder().file("samples.jsonl"),
      "{\"doc_id\": 7, \"target\": \"3\", \"doc\": {\"category\": \"digit 3\"}, \"arguments\": [[\"Which?\", "
      "\"digits\", \"test\"]], \"resps\": [[\"3\"]], \"filtered_resps\": [\"3\"], \"domain\": [\"d\"], "
      "\"extra\": 1}\n\n{\"doc_id\": 5}\n");
  run.config().samples = run.folder().file("samples.jsonl");
  run.write(model, {record});
  const json logs = run.log().at("logs");
  ASSERT_EQ(logs.size(), 3u);
  EXPECT_EQ(logs.at(0).at("doc_id"), 2);  // there is no line for it: the sample's number
  EXPECT_EQ(logs.at(1).at("doc_id"), 5);
  EXPECT_EQ(logs.at(2).at("doc_id"), 7);
  EXPECT_EQ(logs.at(2).at("doc").at("category"), "digit 3");
  EXPECT_EQ(logs.at(2).at("arguments"), json::parse(R"([["Which?","digits","test"]])"));
  EXPECT_EQ(logs.at(2).at("extra"), 1);
}

TEST(SamplesFileTest, WrongSamplesAreNamedByLine) {
  const auto refusal = [](const std::string& text) -> std::string {
    SyntheticRun run;
    const std::string path = run.folder().file("s.jsonl");
    write_text_file(path, text);
    run.config().samples = path;
    try {
      RunFiles files(run.config());
    } catch (const std::runtime_error& error) {
      const std::string message = error.what();
      return message.rfind(path, 0) == 0 ? message.substr(path.size()) : message;
    }
    return "read";
  };
  EXPECT_EQ(refusal("{}\nx\n"), ": line 2: is not JSON; each line must be one JSON object");
  EXPECT_EQ(refusal("[]"), ": line 1: must be a JSON object, got array");
  EXPECT_EQ(refusal("{\"doc_id\": \"a\"}"), ": line 1: \"doc_id\" must be a whole number, got \"a\"");
  EXPECT_EQ(refusal("{\"doc\": 1}"), ": line 1: \"doc\" must be an object, got number");
  EXPECT_EQ(refusal("{\"resps\": 1}"), ": line 1: \"resps\" must be a list, got number");
  EXPECT_EQ(refusal("{\"logs_metrics_moe\": 1}"),
            ": line 1: \"logs_metrics_moe\" is written by moetap and cannot be given");
}

TEST(SamplesFileTest, ACopyGivesTheSameLines) {
  const TemporaryFolder folder;
  write_text_file(folder.file("samples.jsonl"), "{\"doc_id\": 7, \"target\": \"a\"}\n\n{\"target\": \"b\"}");
  const SamplesFile samples(folder.file("samples.jsonl"));
  samples.copy_to(folder.file("copy.jsonl"));
  const SamplesFile copy(folder.file("copy.jsonl"));
  EXPECT_EQ(copy.size(), 2);
  for (int64_t sample = -1; sample < 4; ++sample) {
    EXPECT_EQ(copy.doc_id(sample, 50 + sample), samples.doc_id(sample, 50 + sample));
    EXPECT_EQ(copy.fields(sample, sample), samples.fields(sample, sample));
  }
  EXPECT_EQ(copy.doc_id(0, 50), 7);
  EXPECT_EQ(copy.doc_id(1, 50), 1);  // the line has no doc_id: the sample's number
  EXPECT_EQ(copy.doc_id(2, 50), 50);
  EXPECT_EQ(copy.fields(1, 1).at("target"), "b");
}

}  // namespace
}  // namespace moetap::plugin
