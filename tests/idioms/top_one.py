"""One expert a token."""

import torch
import torch.nn.functional as F
from capacity import BatchedBank
from parts import ListMoE, idiom
from recorder import on, seen, used


@idiom("trace")
class MaskedSelectScatter(ListMoE):
    """Top-1, by masked_select and masked_scatter."""

    def forward(self, x):
        logits = self.gate(x)
        prob, route = logits.softmax(-1).max(-1)
        y = torch.zeros_like(x)
        for e, expert in enumerate(self.experts):
            mask = (route == e).unsqueeze(-1)
            picked = x.masked_select(mask).view(-1, self.d)
            y = y.masked_scatter(mask, expert(picked))
        y = y * prob.unsqueeze(-1)
        if on():
            seen(logits)
            used(self, route.unsqueeze(-1), prob.unsqueeze(-1), x, y)
        return y


@idiom("script")
class SwitchRoutesList(ListMoE):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seq_len, batch_size, d_model = x.shape
        x = x.view(-1, d_model)
        logits = self.gate(x)
        route_prob_max, routes = torch.max(torch.softmax(logits, dim=-1), dim=-1)
        indexes_list = [torch.eq(routes, i).nonzero().squeeze(1) for i in range(self.e)]
        final_output = x.new_zeros(x.shape)
        expert_output: list[torch.Tensor] = []
        for i, expert in enumerate(self.experts):
            expert_output.append(expert(x[indexes_list[i], :]))
        for i in range(self.e):
            final_output[indexes_list[i], :] = expert_output[i]
        final_output = final_output * route_prob_max.view(-1, 1)
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, routes[:, None], route_prob_max[:, None], x, final_output)
        return final_output.view(seq_len, batch_size, d_model)


@idiom("trace", as_sets=True)
class DispatchMatmulFlat(BatchedBank):
    """Dispatch as a [T, E*C] matrix and two matrix products."""

    def forward(self, x):
        flat = x.reshape(-1, self.d)
        cap = 5
        logits = self.gate(flat)
        prob, ids = logits.softmax(-1).max(-1)
        hot = F.one_hot(ids, self.e).float()
        rank = ((hot.cumsum(0) - 1) * hot).sum(-1)
        kept = (rank < cap).float()
        where = F.one_hot(rank.long().clamp(max=cap - 1), cap).float() * kept[:, None]
        dispatch = (hot.unsqueeze(-1) * where.unsqueeze(1)).flatten(1)
        inputs = (dispatch.t() @ flat).view(self.e, cap, self.d)
        y = dispatch @ self.run(inputs).flatten(0, 1)
        y = y * prob[:, None]
        if on():
            seen(logits)
            used(self, ids[:, None], (prob * kept)[:, None], flat, y)
        return y.view_as(x)


@idiom("script")
class FirstCSliced(ListMoE):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, self.d)
        cap = 5
        logits = self.gate(flat)
        w, ids = torch.topk(F.softmax(logits, dim=-1), 1, dim=-1)
        out = torch.zeros_like(flat)
        applied = torch.zeros_like(w)
        for i, expert in enumerate(self.experts):
            pos = (ids[:, 0] == i).nonzero().flatten()
            pos = pos[:cap]
            out[pos] = expert(flat[pos]) * w[pos]
            if not torch.jit.is_scripting():
                applied[pos] = w[pos]
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, ids, applied, flat, out)
        return out.view_as(x)
