#pragma once

#include <vector>

#include "hooks/probe.h"
#include "plugin/verify/hook_proof.h"
#include "plugin/verify/twin_run.h"

namespace moetap::plugin {

// Note [Proof by intervention]
// A capture is right if it is the value that the model goes on with. That is shown without an oracle, on a probed twin
// (hooks/probe.h): values that the hook reports are replaced, and the model must do what they then say.
//
// logits    One expert's logit of one token is raised over all others: the expert must be among the token's ids. It is
//           lowered under all others: the expert must be gone. Refuted where the score does not follow, or where no
//           expert that is tried is selected (a value that selection does not read). A mask, bias or limit behind the
//           scores closes only some experts, and refutes nothing.
// margin    All logits of a token are made equal, and some experts' a little larger: these must be the selected ones.
//           Where they are not, something else takes part in the selection: rightly a bias or a limit to groups, or
//           something that is added to what was captured. So this refutes nothing.
// ids       The ids of one token are replaced by others. The output must be that of the same model when its logits are
//           permuted so that it selects those experts itself, with the same weights in both runs. (Ids that the experts
//           do not get leave the output as it was.) Where dense weights say which experts run, two experts' weights are
//           exchanged instead, and compared with a run whose logits are exchanged. Then the pairs
//           (router_proof_pairs.cpp): with one weight left, its own id must matter. Where only those of other slots do,
//           ids and weights are refuted.
// weights   All are doubled: the first value of the stream's width that changes with them doubles, and it is zero for
//           zero weights. (Weights that are normalised afterwards double nothing.) A norm of the block's output may
//           follow. With zero weights other ids must not change the output.
// factor    What that first value is computed from holds the same numbers as the weights. (Weights without a factor
//           that is applied to them later do not.)
//
// A check that cannot be made says why, and is no refutation: every expert is selected, a bias decides beside the
// logits, no other way gives the same ids. Checks of the tokens: token_proof.h.

/// The checks of what a hook reports, by the forward of `method`, of the probed twin, over the arguments. `base` is
/// that forward without interventions, in which the hook ran.
std::vector<Check> prove_router(const hooks::ProbedRouter& router, const torch::jit::Method& method,
                                const std::vector<c10::IValue>& arguments, uint64_t seed, const TwinRun& base);

/// True if the hook ran in the forward.
bool ran_in(const hooks::ProbedRouter& router, const TwinRun& run);

}  // namespace moetap::plugin
