#include "plugin/records/token_layout_json.h"

#include <gtest/gtest.h>

namespace moetap::plugin {
namespace {

using hooks::TokenDimRole;

hooks::TokenLayout layout() {
  hooks::TokenLayout layout;
  layout.known = true;
  layout.dims = {{TokenDimRole::kSequence, {}, 0, {{TokenDimRole::kOther, {}, 1}, {TokenDimRole::kOther, {{1, 1, 2}}}}},
                 {TokenDimRole::kBatch, {{1, 0, 2}, {0, 0, 4}}},
                 {TokenDimRole::kOther, {}, 7}};
  layout.ids = {1};
  layout.masks = {{2, hooks::MaskDims::kTransposed, hooks::MaskMeans::kPadding},
                  {3, hooks::MaskDims::kOther},
                  {4, hooks::MaskDims::kBuffer, hooks::MaskMeans::kValid, 5}};
  layout.packed = hooks::TokenPacking{2, hooks::Comparison::kGreaterEqual, 0.5};
  return layout;
}

TEST(TokenLayoutJson, IsReadAsItWasWritten) {
  EXPECT_EQ(token_layout_from_json(token_layout_to_json(layout())), layout());
  EXPECT_TRUE(token_layout_to_json({}).is_null());
  EXPECT_FALSE(token_layout_from_json(nullptr).known);
}

TEST(TokenLayoutJson, RefusesWhatIsNoLayout) {
  const nlohmann::json good = token_layout_to_json(layout());
  const auto changed = [&](const std::string& pointer, const nlohmann::json& value) {
    nlohmann::json json = good;
    json[nlohmann::json::json_pointer(pointer)] = value;
    return json;
  };
  for (const nlohmann::json& bad :
       {changed("/dims/1/role", "sequence"), changed("/dims/1/role", "batches"), changed("/dims/1/arguments/0/1", 2),
        changed("/dims/1/arguments/0/0", -1), changed("/dims/2/size", -3), changed("/masks/0/means", "noise"),
        changed("/packed/argument", -1), changed("/packed/keeps", "about"), changed("/ids", "ids"),
        nlohmann::json("text")}) {
    EXPECT_THROW(token_layout_from_json(bad), std::exception) << bad;
  }
}

}  // namespace
}  // namespace moetap::plugin
