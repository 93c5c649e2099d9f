"""What has the operators of a router and is none: nothing may be found here."""

import torch
import torch.nn.functional as F
from parts import BATCH, DIM, LENGTH, VOCAB, Expert, hidden_states, images, look_alike
from torch import nn

D = DIM


@look_alike("script", wrap="none")
class VocabularyTopKSampling(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(VOCAB, D)
        self.lm_head = nn.Linear(D, VOCAB, bias=False)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        logits = self.lm_head(self.emb(input_ids))[:, -1]
        values, indices = torch.topk(logits, 5)
        probs = F.softmax(values, dim=-1)
        next_token = indices.gather(-1, torch.multinomial(probs, 1))
        return self.emb(torch.cat([input_ids, next_token], dim=1))


@look_alike("script", wrap="none")
class NucleusSampling(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(VOCAB, D)
        self.lm_head = nn.Linear(D, VOCAB)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        logits = self.lm_head(self.emb(input_ids))[:, -1]
        sorted_logits, sorted_indices = torch.sort(logits, descending=True)
        cumulative = torch.cumsum(F.softmax(sorted_logits, dim=-1), dim=-1)
        remove = cumulative > 0.9
        remove = torch.roll(remove, 1, dims=-1)
        remove[:, 0] = False
        mask = torch.zeros_like(remove).scatter(1, sorted_indices, remove)
        logits = logits.masked_fill(mask, float("-inf"))
        return self.emb(torch.argmax(logits, dim=-1))


@look_alike("script")
class TokenPruning(nn.Module):
    def __init__(self):
        super().__init__()
        self.score = nn.Linear(D, 1)
        self.mlp = Expert()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        score = torch.sigmoid(self.score(x)).squeeze(-1)
        kept = torch.topk(score, 4, dim=1)[1]
        index = kept.unsqueeze(-1).expand(-1, -1, x.size(-1))
        picked = torch.gather(x, 1, index)
        return torch.zeros_like(x).scatter(1, index, self.mlp(picked))


@look_alike("script")
class MixtureOfDepths(nn.Module):
    def __init__(self):
        super().__init__()
        self.router = nn.Linear(D, 1, bias=False)
        self.block = Expert()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = self.router(x).squeeze(-1)
        top, index = torch.topk(weights, 3, dim=-1)
        index, order = torch.sort(index, dim=-1)
        gate = torch.gather(top, 1, order)
        gather = index.unsqueeze(-1).expand(-1, -1, x.size(-1))
        tokens = torch.gather(x, 1, gather)
        out = self.block(tokens) * gate.unsqueeze(-1)
        return x.scatter_add(1, gather, out)


@look_alike("trace")
class ProductKeyMemory(nn.Module):
    def __init__(self):
        super().__init__()
        self.query = nn.Linear(D, 8)
        self.keys = nn.Parameter(torch.randn(2, 4, 4))
        self.values = nn.EmbeddingBag(16, D, mode="sum")

    def forward(self, x):
        q = self.query(x.reshape(-1, D)).view(-1, 2, 4)
        s1, i1 = (q[:, 0] @ self.keys[0].t()).topk(2, -1)
        s2, i2 = (q[:, 1] @ self.keys[1].t()).topk(2, -1)
        scores = (s1[:, :, None] + s2[:, None, :]).flatten(1)
        indices = (i1[:, :, None] * 4 + i2[:, None, :]).flatten(1)
        best, at = scores.topk(3, -1)
        out = self.values(indices.gather(1, at), per_sample_weights=F.softmax(best, -1))
        return out.view_as(x)


@look_alike("script")
class VectorQuantiser(nn.Module):
    def __init__(self):
        super().__init__()
        self.codebook = nn.Embedding(12, D)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, x.size(-1))
        w = self.codebook.weight
        distance = flat.pow(2).sum(1, keepdim=True) - 2 * flat @ w.t() + w.pow(2).sum(1)
        codes = torch.argmin(distance, dim=1)
        hot = F.one_hot(codes, 12).to(flat.dtype)
        quantised = (hot @ w).view_as(x)
        return x + (quantised - x).detach()


@look_alike("trace")
class GumbelQuantiser(nn.Module):
    """wav2vec 2.0: two groups of codes by argmax of a projection."""

    def __init__(self):
        super().__init__()
        self.weight_proj = nn.Linear(D, 2 * 7)
        self.codevectors = nn.Parameter(torch.rand(1, 14, 5))

    def forward(self, x):
        b, s, _ = x.shape
        h = self.weight_proj(x).view(b * s * 2, -1)
        idx = h.argmax(dim=-1)
        probs = h.new_zeros(h.shape).scatter_(-1, idx.view(-1, 1), 1.0).view(b * s, -1)
        per_group = probs.unsqueeze(-1) * self.codevectors
        return per_group.view(b * s, 2, 7, -1).sum(-2).view(b, s, -1)


@look_alike("script")
class NearestNeighbours(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("keys", torch.randn(20, D))
        self.register_buffer("values", torch.randn(20, D))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        distance = torch.cdist(x.reshape(-1, x.size(-1)), self.keys)
        d, idx = torch.topk(distance, 3, dim=-1, largest=False)
        w = F.softmax(-d, dim=-1)
        return (self.values[idx] * w.unsqueeze(-1)).sum(1).view_as(x)


@look_alike("trace", wrap="none", inputs=images)
class SqueezeExcitation(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, D, 3, padding=1)
        self.fc1 = nn.Conv2d(D, 4, 1)
        self.fc2 = nn.Conv2d(4, D, 1)

    def forward(self, pixel_values):
        x = F.relu(self.conv(pixel_values))
        s = F.adaptive_avg_pool2d(x, 1)
        s = torch.sigmoid(self.fc2(F.relu(self.fc1(s))))
        return x * s


@look_alike("script")
class GatedLinearUnit(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.Linear(D, 2 * D)
        self.down = nn.Linear(D, D)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = self.up(x).chunk(2, dim=-1)
        return self.down(a * torch.sigmoid(b))


@look_alike("script")
class HighwayGate(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(D, 1)
        self.transform = Expert()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        g = torch.sigmoid(self.gate(x))
        return g * self.transform(x) + (1 - g) * x


@look_alike("script")
class KWinners(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(D, 16), nn.Linear(16, D)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = F.relu(self.fc1(x))
        top, idx = torch.topk(h, 4, dim=-1)
        return self.fc2(torch.zeros_like(h).scatter(-1, idx, top))


@look_alike("script")
class SparseAutoencoder(nn.Module):
    """Top-k latents decoded by gathered rows of the decoder."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(D, 24)
        self.w_dec = nn.Parameter(torch.randn(24, D))
        self.b_dec = nn.Parameter(torch.zeros(D))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pre = F.relu(self.encoder(x - self.b_dec))
        acts, idx = torch.topk(pre, 3, dim=-1)
        return (self.w_dec[idx] * acts.unsqueeze(-1)).sum(-2) + self.b_dec


@look_alike("script", wrap="none", inputs=images)
class DetectorProposals(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, D, 3, padding=1)
        self.objectness = nn.Conv2d(D, 3, 1)
        self.deltas = nn.Conv2d(D, 12, 1)
        self.head = nn.Linear(4, 5)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.conv(pixel_values))
        score = self.objectness(x).permute(0, 2, 3, 1).flatten(1)
        boxes = self.deltas(x).view(x.size(0), 3, 4, -1).permute(0, 3, 1, 2).reshape(x.size(0), -1, 4)
        best, idx = torch.topk(score, 6, dim=1)
        picked = torch.gather(boxes, 1, idx.unsqueeze(-1).expand(-1, -1, 4))
        return self.head(picked) * best.sigmoid().unsqueeze(-1)


@look_alike("script", wrap="none")
class BeamStep(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(VOCAB, D)
        self.rnn = nn.Linear(D, D)
        self.out = nn.Linear(D, VOCAB)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        state = torch.tanh(self.rnn(self.emb(input_ids)))  # [B, beams, D]
        logp = F.log_softmax(self.out(state), dim=-1)
        score, flat = torch.topk(logp.flatten(1), 3, dim=-1)
        vocabulary = logp.size(-1)
        beam = flat.div(vocabulary, rounding_mode="floor")
        token = flat % vocabulary
        state = torch.gather(state, 1, beam.unsqueeze(-1).expand(-1, -1, state.size(-1)))
        return state * score.unsqueeze(-1) + self.emb(token)


@look_alike("script", wrap="none")
class ClassifierTopFive(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(VOCAB, D)
        self.fc = nn.Linear(D, 11)

    def forward(self, input_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        probs = F.softmax(self.fc(self.emb(input_ids).mean(1)), dim=-1)
        values, indices = torch.topk(probs, 5)
        return values, indices


@look_alike("script")
class LabelFedBack(nn.Module):
    """A predicted class whose embedding conditions the next layer."""

    def __init__(self):
        super().__init__()
        self.classifier = nn.Linear(D, 5)
        self.label_emb = nn.Embedding(5, D)
        self.mlp = Expert()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        label = self.classifier(x).argmax(-1)
        return self.mlp(x + self.label_emb(label))


@look_alike("script")
class TokenMerging(nn.Module):
    """ToMe: bipartite matching of tokens."""

    def __init__(self):
        super().__init__()
        self.metric = nn.Linear(D, D)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        m = F.normalize(self.metric(x), dim=-1)
        a, b = m[:, ::2], m[:, 1::2]
        scores = a @ b.transpose(1, 2)
        node_max, node_idx = scores.max(dim=-1)
        src = node_max.argsort(dim=-1, descending=True)[:, :2]
        dst = node_idx.gather(1, src)
        even, odd = x[:, ::2], x[:, 1::2]
        moved = even.gather(1, src.unsqueeze(-1).expand(-1, -1, x.size(-1)))
        odd = odd.scatter_add(1, dst.unsqueeze(-1).expand(-1, -1, x.size(-1)), moved)
        return x + odd.mean(1, keepdim=True)


@look_alike("script")
class EarlyExit(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([Expert() for _ in range(3)])
        self.exit = nn.Linear(D, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = x + layer(x)
            confidence = self.exit(x).softmax(-1).max(-1)[0]
            if bool(confidence.min() > 0.9):
                return x
        return x


@look_alike("script", wrap="none", inputs=lambda: {"logits": torch.randn(BATCH, LENGTH, 5)})
class ViterbiDecode(nn.Module):
    def __init__(self):
        super().__init__()
        self.transitions = nn.Parameter(torch.randn(5, 5))

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        score = logits[:, 0]
        back = []
        for t in range(1, logits.size(1)):
            best, idx = (score.unsqueeze(2) + self.transitions).max(dim=1)
            score = best + logits[:, t]
            back.append(idx)
        return torch.stack(back, 1).to(logits.dtype) * score.unsqueeze(1)


@look_alike("script", wrap="none", inputs=hidden_states)
class RetrieverRerank(nn.Module):
    """Documents fetched by a projected query, their vectors attended to."""

    def __init__(self):
        super().__init__()
        self.query = nn.Linear(D, 6)
        self.register_buffer("index", torch.randn(30, 6))
        self.documents = nn.Embedding(30, D)
        self.out = nn.Linear(2 * D, D)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        q = F.normalize(self.query(hidden_states.mean(1)), dim=-1)
        score, ids = torch.topk(q @ self.index.t(), 4, dim=-1)
        docs = self.documents(ids)
        context = (docs * F.softmax(score, dim=-1).unsqueeze(-1)).sum(1)
        context = context.unsqueeze(1).expand_as(hidden_states)
        return self.out(torch.cat([hidden_states, context], dim=-1))
