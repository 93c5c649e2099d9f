#include "look_alikes.h"

#include <ATen/ATen.h>

#include <ostream>

namespace moetap::hooks::testing {

namespace {

constexpr int64_t kVocabulary = 11;

at::Tensor square(uint64_t seed) {
  return random_tensor({kHidden, kHidden}, seed) * 0.3;
}

at::Tensor token_ids() {
  return at::arange(kTokens, at::kLong).remainder(kVocabulary).view({kBatch, kSequence});
}

ModuleSource with_projection(int64_t size, const std::string& code,
                             std::vector<std::pair<std::string, at::Tensor>> more = {}) {
  ModuleSource source{.type = "Module", .parameters = {{"weight", random_tensor({size, kHidden}, 61)}}, .code = code};
  source.parameters.insert(source.parameters.end(), more.begin(), more.end());
  return source;
}

}  // namespace

void PrintTo(const LookAlike& look_alike, std::ostream* stream) {
  *stream << look_alike.name;
}

std::vector<LookAlike> look_alikes() {
  std::vector<LookAlike> all;
  const std::vector<at::Tensor> input = {random_input()};
  // The operators of A2, over the words of a vocabulary.
  all.push_back({"vocabulary_top_k", true, with_projection(kVocabulary, R"(
def forward(self, x: Tensor) -> Tuple[Tensor, Tensor]:
    probabilities = torch.softmax(torch.linear(x[:, -1], self.weight).to(float32), -1)
    weights, ids = torch.topk(probabilities, 2, -1)
    weights /= weights.sum(-1, keepdim=True)
    return weights, ids
)"),
                 input});
  all.push_back({"vocabulary_sampling", true, with_projection(kVocabulary, R"(
def forward(self, x: Tensor) -> Tensor:
    values, ids = torch.topk(torch.linear(x[:, -1], self.weight), 4, -1)
    return torch.gather(ids, -1, torch.multinomial(torch.softmax(values, -1), 1))
)"),
                 input});
  // The picked word is embedded for the next step: ids choose rows of a parameter, and there are no weights.
  all.push_back({"greedy_decoding", true,
                 with_projection(kVocabulary, R"(
def forward(self, x: Tensor) -> Tensor:
    state = x[:, -1]
    for step in range(3):
        ids = torch.argmax(torch.linear(state, self.weight), -1)
        state = torch.tanh(torch.matmul(state + torch.embedding(self.table, ids), self.cell))
    return state
)",
                                 {{"table", random_tensor({kVocabulary, kHidden}, 62)}, {"cell", square(63)}}),
                 input});
  all.push_back({"beam_search",
                 true,
                 {.type = "Module",
                  .parameters = {{"table", random_tensor({kVocabulary, kHidden}, 62)},
                                 {"cell", square(63)},
                                 {"weight", random_tensor({kVocabulary, kHidden}, 64)}},
                  .code = R"(
def forward(self, ids: Tensor) -> Tensor:
    beams = ids[:1].repeat([4, 1])
    score = torch.zeros([4, 1])
    for step in range(3):
        state = torch.tanh(torch.matmul(torch.embedding(self.table, beams).mean(1), self.cell))
        words = torch.log_softmax(torch.linear(state, self.weight), -1) + score
        values, flat = torch.topk(words.view(-1), 4)
        words_of_beams = torch.remainder(flat, 11).unsqueeze(1)
        beams = torch.cat([beams[torch.div(flat, 11, rounding_mode="floor")], words_of_beams], 1)
        score = values.unsqueeze(1)
    return beams
)"},
                 {token_ids()}});
  all.push_back({"token_pruning", true,
                 with_projection(1, R"(
def forward(self, x: Tensor) -> Tensor:
    importance = torch.sigmoid(torch.linear(x, self.weight).squeeze(-1))
    values, ids = torch.topk(importance, 2, -1)
    kept = torch.gather(x, 1, ids.unsqueeze(-1).expand([-1, -1, x.size(2)]))
    return torch.matmul(kept * values.unsqueeze(-1), self.cell)
)",
                                 {{"cell", square(63)}}),
                 input});
  all.push_back({"mixture_of_depths", true,
                 with_projection(1, R"(
def forward(self, x: Tensor) -> Tensor:
    h = x.view(-1, x.size(-1))
    scores = torch.linear(h, self.weight).squeeze(-1)
    values, ids = torch.topk(scores, 4, 0)
    rows = torch.tanh(torch.matmul(h[ids], self.cell)) * torch.sigmoid(values).unsqueeze(-1)
    return h.index_add(0, ids, rows).view_as(x)
)",
                                 {{"cell", square(63)}}),
                 input});
  // Tokens that each query may attend to, as a mask.
  all.push_back({"attention_indexer", true,
                 with_projection(kHidden, R"(
def forward(self, x: Tensor) -> Tensor:
    q = torch.linear(x, self.weight)
    scores = torch.softmax(torch.matmul(q, x.transpose(1, 2)), -1)
    ids = torch.topk(scores, 2, -1)[1]
    mask = torch.full_like(scores, float("-inf")).scatter(-1, ids, 0.0)
    return torch.matmul(torch.softmax(torch.matmul(q, x.transpose(1, 2)) + mask, -1), torch.matmul(x, self.cell))
)",
                                 {{"cell", square(63)}}),
                 input});
  all.push_back({"attention_pooling", false,
                 with_projection(4, R"(
def forward(self, x: Tensor) -> Tensor:
    shares = torch.softmax(torch.linear(x, self.weight), 1)
    return torch.matmul(shares.transpose(1, 2), torch.matmul(x, self.cell))
)",
                                 {{"cell", square(63)}}),
                 input});
  all.push_back({"memory_lookup", false,
                 with_projection(kExperts, R"(
def forward(self, x: Tensor) -> Tensor:
    shares = torch.softmax(torch.linear(x.view(-1, x.size(-1)), self.weight), -1)
    return x + torch.matmul(shares, self.memory).view_as(x)
)",
                                 {{"memory", random_tensor({kExperts, kHidden}, 65)}}),
                 input});
  // The same with the two nearest memories only.
  all.push_back({"memory_top_k", true,
                 with_projection(kVocabulary, R"(
def forward(self, x: Tensor) -> Tensor:
    values, ids = torch.topk(torch.linear(x.view(-1, x.size(-1)), self.weight), 2, -1)
    shares = torch.softmax(values, -1)
    found = (self.memory[ids] * shares.unsqueeze(-1)).sum(1)
    return x + found.view_as(x)
)",
                                 {{"memory", random_tensor({kVocabulary, kHidden}, 65)}}),
                 input});
  all.push_back({"shared_expert_gate", false,
                 with_projection(1, R"(
def forward(self, x: Tensor) -> Tensor:
    return x + torch.sigmoid(torch.linear(x, self.weight)) * torch.matmul(x, self.cell)
)",
                                 {{"cell", square(63)}}),
                 input});
  all.push_back({"output_gate", false,
                 with_projection(kHidden, R"(
def forward(self, x: Tensor) -> Tensor:
    return torch.sigmoid(torch.linear(x, self.weight)) * torch.matmul(x, self.cell)
)",
                                 {{"cell", square(63)}}),
                 input});
  all.push_back({"squeeze_excitation", false,
                 with_projection(4, R"(
def forward(self, x: Tensor) -> Tensor:
    squeezed = torch.relu(torch.linear(x.mean(1, keepdim=True), self.weight))
    return torch.matmul(x, self.cell) * torch.sigmoid(torch.matmul(squeezed, self.expand))
)",
                                 {{"cell", square(63)}, {"expand", random_tensor({4, kHidden}, 66)}}),
                 input});
  all.push_back({"codebook_argmax", true,
                 with_projection(kHidden, R"(
def forward(self, x: Tensor) -> Tensor:
    h = torch.linear(x.view(-1, x.size(-1)), self.weight)
    lengths = h.square().sum(1, keepdim=True) + self.codebook.square().sum(1)
    distance = lengths - 2.0 * torch.matmul(h, self.codebook.t())
    ids = torch.argmin(distance, 1)
    found = torch.embedding(self.codebook, ids)
    return torch.matmul(h + (found - h).detach(), self.cell).view_as(x)
)",
                                 {{"codebook", random_tensor({kVocabulary, kHidden}, 65)}, {"cell", square(63)}}),
                 input});
  all.push_back({"classifier_argmax", false, with_projection(kExperts, R"(
def forward(self, x: Tensor) -> Tuple[Tensor, Tensor]:
    probabilities = torch.softmax(torch.linear(x.mean(1), self.weight), -1)
    confidence, label = torch.max(probabilities, -1)
    return label, confidence
)"),
                 input});
  // Scores of boxes choose boxes, which another projection gave.
  all.push_back({"detector_boxes", true,
                 with_projection(kExperts, R"(
def forward(self, x: Tensor) -> Tuple[Tensor, Tensor]:
    confidence = torch.sigmoid(torch.linear(x, self.weight)).amax(-1)
    boxes = torch.linear(x, self.box)
    values, ids = torch.topk(confidence, 3, 1)
    chosen = torch.gather(boxes, 1, ids.unsqueeze(-1).expand([-1, -1, 4]))
    return values, chosen
)",
                                 {{"box", random_tensor({4, kHidden}, 66)}}),
                 input});
  // The label of each box chooses among boxes a class.
  all.push_back({"detector_class_boxes", true,
                 with_projection(kExperts, R"(
def forward(self, x: Tensor) -> Tuple[Tensor, Tensor]:
    confidence, label = torch.max(torch.softmax(torch.linear(x, self.weight), -1), -1)
    boxes = torch.linear(x, self.box).view(x.size(0), x.size(1), 6, 4)
    chosen = torch.gather(boxes, 2, label.unsqueeze(-1).unsqueeze(-1).expand([-1, -1, 1, 4])).squeeze(2)
    return confidence, chosen
)",
                                 {{"box", random_tensor({4 * kExperts, kHidden}, 66)}}),
                 input});
  // Tokens are grouped by the nearest centre, and the centre gets their mean.
  all.push_back({"cluster_pooling", true,
                 with_projection(kExperts, R"(
def forward(self, x: Tensor) -> Tensor:
    hot = torch.one_hot(torch.argmax(torch.linear(x, self.weight), -1), 6).to(x.dtype)
    pooled = torch.matmul(hot.transpose(1, 2), torch.matmul(x, self.cell))
    return x + (pooled / (hot.sum(1).unsqueeze(-1) + 1.0)).mean(1, keepdim=True)
)",
                                 {{"cell", square(63)}}),
                 input});
  // Features are kept where a class is predicted.
  all.push_back({"segmentation_mask", true,
                 with_projection(kExperts, R"(
def forward(self, x: Tensor) -> Tensor:
    label = torch.argmax(torch.linear(x, self.weight), -1, keepdim=True)
    return torch.matmul(x * (label > 0).to(x.dtype), self.cell)
)",
                                 {{"cell", square(63)}}),
                 input});
  // A gated unit whose gate is zero for half of its values.
  all.push_back(
      {"gate_by_sign", false,
       with_projection(16, R"(
def forward(self, x: Tensor) -> Tensor:
    return torch.linear(torch.relu(torch.linear(x, self.weight)) * torch.linear(x, self.up), self.down)
)",
                       {{"up", random_tensor({16, kHidden}, 66)}, {"down", random_tensor({kHidden, 16}, 67)}}),
       input});
  // The best channels of an image: no output of an expert is added up.
  all.push_back(
      {"channel_pruning", false,
       with_projection(12, R"(
def forward(self, x: Tensor) -> Tensor:
    scores = torch.relu(torch.linear(x.mean(1), self.weight))
    best, ids = torch.topk(scores, 6, 1)
    mask = torch.zeros_like(scores).scatter(1, ids, best)
    channels = torch.conv1d(x.transpose(1, 2), self.into) * mask.unsqueeze(-1)
    return torch.conv1d(channels, self.out)
)",
                       {{"into", random_tensor({12, kHidden, 1}, 68)}, {"out", random_tensor({4, 12, 1}, 69)}}),
       input});
  // Boxes of a detector: places and anchors in one dimension.
  all.push_back({"proposals", true,
                 with_projection(3, R"(
def forward(self, x: Tensor) -> Tensor:
    score = torch.linear(x, self.weight).permute(0, 1, 2).flatten(1)
    boxes = torch.linear(x, self.deltas).view(x.size(0), -1, 4)
    best, ids = torch.topk(score, 4, 1)
    picked = torch.gather(boxes, 1, ids.unsqueeze(-1).expand(-1, -1, 4))
    return torch.linear(picked, self.head) * torch.sigmoid(best).unsqueeze(-1)
)",
                                 {{"deltas", random_tensor({12, kHidden}, 70)}, {"head", random_tensor({5, 4}, 74)}}),
                 input});
  return all;
}

std::vector<LookAlike> unsupported_routers() {
  std::vector<LookAlike> all;
  const std::vector<at::Tensor> input = {random_input()};
  const std::pair<std::string, at::Tensor> experts = {"expert_weights", expert_weights()};
  all.push_back(
      {"I_product_keys", true,
       with_projection(kHidden, R"(
def forward(self, x: Tensor) -> Tensor:
    h = x.view(-1, x.size(-1))
    halves = torch.linear(h, self.weight).view(-1, 2, 4).transpose(0, 1)
    values, places = torch.topk(halves, 2, -1)
    rows, columns = torch.unbind(values, 0)
    row_ids, column_ids = torch.unbind(places, 0)
    sums = (rows.unsqueeze(-1) + columns.unsqueeze(-2)).view(-1, 4)
    all_ids = (row_ids.unsqueeze(-1) * 4 + column_ids.unsqueeze(-2)).view(-1, 4)
    best, at = torch.topk(sums, 2, -1)
    ids = torch.gather(all_ids, -1, at)
    weights = torch.softmax(best, -1)
    found = torch.embedding(self.down, ids)
    hidden = torch.matmul(found, h.unsqueeze(-1)).squeeze(-1) * weights
    return x + torch.matmul(hidden.unsqueeze(1), torch.embedding(self.up, ids)).view_as(x)
)",
                       {{"down", random_tensor({16, kHidden}, 71)}, {"up", random_tensor({16, kHidden}, 72)}}),
       input});
  // Each expert's first tokens, by a sorted table of their numbers.
  all.push_back({"first_tokens_of_a_table", true,
                 with_projection(kExperts, R"(
def forward(self, x: Tensor) -> Tensor:
    h = x.view(-1, x.size(-1))
    share, ids = torch.max(torch.softmax(torch.linear(h, self.weight), -1), -1)
    hot = torch.one_hot(ids, 6)
    number = torch.where(hot > 0, torch.arange(h.size(0)).unsqueeze(1), torch.full_like(hot, h.size(0)))
    table = torch.sort(number, 0)[0][:3].t()
    padded = torch.cat([h, torch.zeros([1, 8])])
    made = torch.bmm(padded[table], self.expert_weights).reshape(-1, 8)
    back = torch.zeros([h.size(0) + 1, 8]).index_add(0, table.reshape(-1), made)[:-1]
    return x + (back * share.unsqueeze(-1)).view_as(x)
)",
                                 {experts}),
                 input});
  // A group by one gate, the expert inside it by another: the ids of experts are no router's own.
  all.push_back({"group_then_expert", true,
                 with_projection(kExperts, R"(
def forward(self, x: Tensor) -> Tensor:
    h = x.view(-1, x.size(-1))
    group_share, group = torch.max(torch.softmax(torch.linear(h, self.outer), -1), -1, keepdim=True)
    inside = torch.linear(h, self.weight).view(-1, 2, 3).gather(1, group.unsqueeze(-1).expand(-1, 1, 3)).squeeze(1)
    share, index = torch.max(torch.softmax(inside, -1), -1, keepdim=True)
    ids = group * 3 + index
    out = torch.zeros_like(h)
    for e in range(6):
        mine = (ids == e).to(h.dtype) * group_share * share
        out = out + mine * torch.matmul(h, self.expert_weights[e])
    return x + out.view_as(x)
)",
                                 {experts, {"outer", random_tensor({2, kHidden}, 73)}}),
                 input});
  all.push_back({"Z_dense_mixture", true,
                 with_projection(kExperts, R"(
def forward(self, x: Tensor) -> Tensor:
    h = x.view(-1, x.size(-1))
    shares = torch.softmax(torch.linear(h, self.weight), -1)
    out = torch.zeros_like(h)
    for e in range(6):
        out = out + shares[:, e].unsqueeze(-1) * torch.matmul(h, self.expert_weights[e])
    return x + out.view_as(x)
)",
                                 {experts}),
                 input});
  all.push_back({"Z_soft_slots", true,
                 with_projection(kExperts, R"(
def forward(self, x: Tensor) -> Tensor:
    logits = torch.matmul(x, self.weight.t())
    slots = torch.matmul(torch.softmax(logits, 1).transpose(1, 2), x)
    outputs = torch.matmul(slots.unsqueeze(2), self.expert_weights).squeeze(2)
    return x + torch.matmul(torch.softmax(logits, 2), outputs)
)",
                                 {experts}),
                 input});
  return all;
}

}  // namespace moetap::hooks::testing
