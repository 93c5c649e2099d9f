#include "plugin/verify/hook_proof.h"

#include <gtest/gtest.h>

namespace moetap::plugin {
namespace {

TEST(HookProof, IsRefutedByOneCheckAndProvenByOneWithoutThat) {
  HookProof proof{{}, {not_shown("logits", "none")}};
  EXPECT_EQ(proof.verdict(), Verdict::kNotShown);
  proof.add({proven("ids")});
  EXPECT_EQ(proof.verdict(), Verdict::kProven);
  EXPECT_EQ(proof.line(), "proven: ids; not shown: logits (none)");
  proof.add({refuted("weights", "wrong")});
  EXPECT_EQ(proof.verdict(), Verdict::kRefuted);
  EXPECT_EQ(proof.line(), "refuted: weights (wrong); proven: ids; not shown: logits (none)");
}

TEST(HookProof, AnotherForwardDecidesOnlyWhatIsOpen) {
  HookProof proof{{}, {not_shown("logits", "first"), proven("ids"), refuted("weights", "wrong")}};
  proof.add({not_shown("logits", "second"), refuted("ids", "no"), proven("weights"), proven("samples")});
  EXPECT_EQ(proof.line(), "refuted: weights (wrong); proven: ids, samples; not shown: logits (first)");
  EXPECT_TRUE(proof.is_open("logits"));
  EXPECT_FALSE(proof.is_open("weights"));
  EXPECT_TRUE(proof.is_open("padding")) << "nobody tried it";
}

}  // namespace
}  // namespace moetap::plugin
