#include "plugin/formats/json_text.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

namespace moetap::plugin {
namespace {

TEST(JsonText, ShortValuesAreWhole) {
  EXPECT_EQ(short_text({{"key", {1, 2.5, nullptr}}}), R"({"key":[1,2.5,null]})");
  EXPECT_EQ(short_text(std::string(78, 'a')), fmt::format("\"{:a>78}\"", ""));
  EXPECT_EQ(short_text("no \xFF UTF-8"), "\"no \xEF\xBF\xBD UTF-8\"");
}

TEST(JsonText, LongValuesAreCut) {
  EXPECT_EQ(short_text(std::string(79, 'a')), fmt::format("\"{:a>79}...", ""));
  EXPECT_EQ(short_text(std::string(500, 'a')), fmt::format("\"{:a>79}...", ""));
}

TEST(JsonText, NoCharacterIsCut) {
  const std::string euro = "\xE2\x82\xAC";
  for (size_t before = 74; before < 79; ++before) {
    std::string text(before, 'a');
    for (int i = 0; i < 10; ++i) text += euro;
    const std::string cut = short_text(text);
    ASSERT_TRUE(cut.ends_with("...")) << cut;
    // As JSON again it would throw for half a character.
    EXPECT_NO_THROW(static_cast<void>(nlohmann::json(cut).dump())) << before;
    EXPECT_GT(cut.size(), 80u) << before;
    EXPECT_LE(cut.size(), 83u) << before;
  }
}

TEST(JsonText, BytesThatAreNoTextAreReplacedInEveryForm) {
  const nlohmann::ordered_json value = {{"b", "\xFF"}, {"a", "\xE2\x82\xAC"}};
  EXPECT_EQ(compact_text(value), "{\"b\":\"\xEF\xBF\xBD\",\"a\":\"\xE2\x82\xAC\"}");
  EXPECT_EQ(ascii_text(value), R"({"b":"\ufffd","a":"\u20ac"})");
  EXPECT_EQ(indented_text(value), "{\n \"b\": \"\xEF\xBF\xBD\",\n \"a\": \"\xE2\x82\xAC\"\n}\n");
  EXPECT_EQ(quoted_text("a \"quote\""), R"("a \"quote\"")");
}

}  // namespace
}  // namespace moetap::plugin
