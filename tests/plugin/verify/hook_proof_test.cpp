#include "plugin/verify/hook_proof.h"

#include <gtest/gtest.h>

#include <stdexcept>

namespace moetap::plugin {
namespace {

TEST(HookProof, IsRefutedByOneCheckAndProvenByOneWithoutThat) {
  HookProof proof{{}, {Check{"logits", Verdict::kNotShown, "none"}}};
  EXPECT_EQ(proof.verdict(), Verdict::kNotShown);
  proof.add({Check{"ids", Verdict::kProven}});
  EXPECT_EQ(proof.verdict(), Verdict::kProven);
  EXPECT_EQ(proof.line(), "proven: ids; not shown: logits (none)");
  proof.add({Check{"weights", Verdict::kRefuted, "wrong"}});
  EXPECT_EQ(proof.verdict(), Verdict::kRefuted);
  EXPECT_EQ(proof.line(), "refuted: weights (wrong); proven: ids; not shown: logits (none)");
}

TEST(HookProof, AnotherForwardDecidesOnlyWhatIsOpen) {
  HookProof proof{{},
                  {Check{"logits", Verdict::kNotShown, "first"}, Check{"ids", Verdict::kProven},
                   Check{"weights", Verdict::kRefuted, "wrong"}}};
  proof.add({Check{"logits", Verdict::kNotShown, "second"}, Check{"ids", Verdict::kRefuted, "no"},
             Check{"weights", Verdict::kProven}, Check{"samples", Verdict::kProven}});
  EXPECT_EQ(proof.line(), "refuted: weights (wrong); proven: ids, samples; not shown: logits (first)");
  EXPECT_TRUE(proof.is_open("logits"));
  EXPECT_FALSE(proof.is_open("weights"));
  EXPECT_TRUE(proof.is_open("padding")) << "nobody tried it";
}

TEST(HookProof, OfAKindThatThrowsShowsNothing) {
  const auto checks = run_checks(kTokenChecks, [](size_t i) -> Finding {
    if (i == 1) throw std::runtime_error("the model failed\nat a line");
    return i == 0 ? proven() : refuted("wrong");
  });
  EXPECT_EQ((HookProof{{}, checks}).line(),
            "refuted: padding (wrong); proven: samples; not shown: positions (the model failed)");
}

}  // namespace
}  // namespace moetap::plugin
