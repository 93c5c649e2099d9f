#include "attention_spellings.h"

namespace moetap::hooks::testing {

std::vector<AttentionLookAlike> attention_look_alikes() {
  std::vector<AttentionLookAlike> all;
  all.push_back({"memory", "attention whose queries or keys are parameters, not tokens", R"(
def forward(self, x: Tensor, keep: Tensor) -> Tensor:
    p = torch.softmax(torch.matmul(torch.linear(x, self.wq), self.memory.t()), -1)
    return torch.matmul(p, torch.linear(self.memory, self.wv) + x.mean())
)"});
  all.push_back({"fused_memory", "attention whose queries or keys are parameters, not tokens", R"(
def forward(self, x: Tensor, keep: Tensor) -> Tensor:
    k = torch.linear(self.memory, self.wk).unsqueeze(0)
    return torch.scaled_dot_product_attention(torch.linear(x, self.wq), k, k)
)"});
  all.push_back({"layers", "attention over the outputs of several layers, not over tokens", R"(
def forward(self, x: Tensor, keep: Tensor) -> Tensor:
    layers = torch.stack([x, torch.linear(x, self.wk), torch.linear(x, self.wv)], 2)
    q = torch.linear(x, self.wq).unsqueeze(2)
    p = torch.softmax(torch.matmul(q, layers.transpose(-2, -1)), -1)
    return torch.matmul(p, layers).squeeze(2)
)"});
  all.push_back({"fused_layers", "attention over the outputs of several layers, not over tokens", R"(
def forward(self, x: Tensor, keep: Tensor) -> Tensor:
    layers = torch.stack([x, torch.linear(x, self.wk), torch.linear(x, self.wv)], 2)
    q = torch.linear(x, self.wq).unsqueeze(2)
    return torch.scaled_dot_product_attention(q, torch.linear(layers, self.wk), layers).squeeze(2)
)"});
  all.push_back(
      {"slots", "the softmax of a product that does not weigh one token by another, as that of attention does", R"(
def forward(self, x: Tensor, keep: Tensor) -> Tensor:
    slots = x[:, :2]
    k, v = torch.linear(x, self.wk), torch.linear(x, self.wv)
    p = torch.softmax(torch.matmul(k, torch.linear(slots, self.wq).transpose(1, 2)), -1)
    return torch.matmul((p / p.sum(1, keepdim=True)).transpose(1, 2), v)
)"});
  all.push_back(
      {"channels", "the softmax of a product that does not weigh one token by another, as that of attention does", R"(
def forward(self, x: Tensor, keep: Tensor) -> Tensor:
    q, k, v = self.projected(x)
    p = torch.softmax(torch.matmul(q.mT, k), -1)
    return self.joined(torch.matmul(p, v.mT).mT)
)"});
  all.push_back({"samples", "attention of the samples of a batch to each other, not of tokens", R"(
def forward(self, x: Tensor, keep: Tensor) -> Tensor:
    h = x[:, 0]
    p = torch.softmax(torch.matmul(torch.linear(h, self.wq), torch.linear(h, self.wk).t()), -1)
    return torch.matmul(p, torch.linear(h, self.wv))
)"});
  all.push_back({"heads_before_the_batch_in_one_dimension",
                 "attention whose scores the graph does not show as [batch, heads, queries, keys]", R"(
def forward(self, x: Tensor, keep: Tensor) -> Tensor:
    q = torch.cat(torch.split(torch.linear(x, self.wq), 4, 2), 0)
    k = torch.cat(torch.split(torch.linear(x, self.wk), 4, 2), 0)
    v = torch.cat(torch.split(torch.linear(x, self.wv), 4, 2), 0)
    p = torch.softmax(torch.matmul(q, k.transpose(1, 2)), -1)
    return torch.cat(torch.split(torch.matmul(p, v), x.size(0), 0), 2)
)"});
  all.push_back(
      {"similarity", "the softmax of a product that does not weigh one token by another, as that of attention does", R"(
def forward(self, x: Tensor, keep: Tensor) -> Tensor:
    a, b = torch.linear(x.mean(1), self.wq), torch.linear(x.mean(1), self.wk)
    return torch.softmax(torch.matmul(a, b.t()), -1)
)"});
  all.push_back({"gate", "", R"(
def forward(self, x: Tensor, keep: Tensor) -> Tensor:
    return torch.softmax(torch.linear(x, self.wq), -1) * torch.linear(x, self.wv)
)"});
  all.push_back({"linear_attention", "", R"(
def forward(self, x: Tensor, keep: Tensor) -> Tensor:
    q, k, v = self.projected(x)
    return self.joined(torch.matmul(torch.softmax(q, -1), torch.matmul(torch.softmax(k, -2).transpose(-2, -1), v)))
)"});
  all.push_back({"pooling", "", R"(
def forward(self, x: Tensor, keep: Tensor) -> Tensor:
    p = torch.softmax(torch.matmul(x, self.memory[0]), -1)
    return torch.matmul(p.unsqueeze(1), x).squeeze(1)
)"});
  return all;
}

}  // namespace moetap::hooks::testing
