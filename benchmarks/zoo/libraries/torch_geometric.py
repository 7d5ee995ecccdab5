"""torch_geometric: its models, and two layers of each kind with F.relu between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric import nn as gnn

from ..subject import Subject
from ._inputs import Build, table

NODES, WIDTH, EDGES = 12, 16, 40


def edges() -> Tensor:
    """A ring, so that no node is alone, and what chance adds."""
    ring = torch.stack([torch.arange(NODES), torch.arange(NODES).roll(1)])
    return torch.cat([ring, ring.flip(0), torch.randint(NODES, (2, EDGES - 2 * NODES))], 1)


class Two(nn.Module):
    """Two layers, F.relu between them, and a row of scores per node."""

    def __init__(self, layer: Callable[..., nn.Module], *rest: Any):
        super().__init__()
        self.first, self.second = layer(WIDTH, WIDTH), layer(WIDTH, WIDTH)
        self.last, self.rest = nn.Linear(WIDTH, 5), rest

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Scores."""
        x = F.relu(self.first(x, edge_index, *self.rest))
        return self.last(self.second(x, edge_index, *self.rest))


def mlp(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, WIDTH), nn.ReLU(), nn.Linear(WIDTH, outputs))


LAYERS: dict[str, Callable[..., nn.Module]] = {
    "ChebConv": lambda i, o: gnn.ChebConv(i, o, K=3),
    "GraphConv": gnn.GraphConv,
    "GATv2Conv": gnn.GATv2Conv,
    "TransformerConv": gnn.TransformerConv,
    "ResGatedGraphConv": gnn.ResGatedGraphConv,
    "GatedGraphConv": lambda i, o: gnn.GatedGraphConv(o, num_layers=2),
    "AGNNConv": lambda i, o: gnn.AGNNConv(),
    "TAGConv": gnn.TAGConv,
    "GINConv": lambda i, o: gnn.GINConv(mlp(i, o)),
    "ARMAConv": lambda i, o: gnn.ARMAConv(i, o, num_stacks=2, num_layers=2),
    "SGConv": lambda i, o: gnn.SGConv(i, o, K=2),
    "SSGConv": lambda i, o: gnn.SSGConv(i, o, alpha=0.1),
    "APPNP": lambda i, o: gnn.APPNP(K=3, alpha=0.1),
    "MFConv": gnn.MFConv,
    "EdgeConv": lambda i, o: gnn.EdgeConv(mlp(2 * i, o)),
    "FeaStConv": lambda i, o: gnn.FeaStConv(i, o, heads=2),
    "LEConv": gnn.LEConv,
    "ClusterGCNConv": gnn.ClusterGCNConv,
    "GENConv": gnn.GENConv,
    "SuperGATConv": gnn.SuperGATConv,
    "EGConv": lambda i, o: gnn.EGConv(i, o, num_heads=4),
    "GeneralConv": gnn.GeneralConv,
    "FiLMConv": gnn.FiLMConv,
    "CGConv": lambda i, o: gnn.CGConv(i),
    "SAGEConv/max": lambda i, o: gnn.SAGEConv(i, o, aggr="max"),
    "SAGEConv/softmax": lambda i, o: gnn.SAGEConv(i, o, aggr="softmax"),
    "AntiSymmetricConv": lambda i, o: gnn.AntiSymmetricConv(i, num_iters=2, act="relu"),
    "DirGNNConv": lambda i, o: gnn.DirGNNConv(gnn.SAGEConv(i, o)),
    "MixHopConv": lambda i, o: nn.Sequential(),
    "HypergraphConv": gnn.HypergraphConv,
    "GPSConv": lambda i, o: gnn.GPSConv(i, gnn.GINConv(mlp(i, o)), heads=4),
    "DeepGCNLayer": lambda i, o: gnn.DeepGCNLayer(
        gnn.GENConv(i, o), nn.LayerNorm(i), nn.ReLU(inplace=True), block="res+"
    ),
    "DenseGCN": lambda i, o: gnn.DeepGCNLayer(
        gnn.GCNConv(i, o), nn.BatchNorm1d(o), nn.ReLU(inplace=True), block="plain"
    ),
    "WLConvContinuous": lambda i, o: gnn.WLConvContinuous(),
    "GCN2Conv": lambda i, o: Initial(i),
    "RGCNConv": lambda i, o: Related(i, o),
    "NNConv": lambda i, o: Attributed(gnn.NNConv(i, o, mlp(4, i * o))),
    "GMMConv": lambda i, o: Attributed(gnn.GMMConv(i, o, dim=4, kernel_size=2)),
    "GINEConv": lambda i, o: Attributed(gnn.GINEConv(mlp(i, o), edge_dim=4)),
    "PDNConv": lambda i, o: Attributed(gnn.PDNConv(i, o, edge_dim=4, hidden_channels=8)),
    "PNAConv": lambda i, o: gnn.PNAConv(
        i, o, ["mean", "max", "std"], ["identity", "amplification"], torch.tensor([0, 2, 6, 4])
    ),
    "PointNetConv": lambda i, o: Placed(gnn.PointNetConv(mlp(i + 3, o), mlp(o, o))),
    "PointTransformerConv": lambda i, o: Placed(gnn.PointTransformerConv(i, o)),
}
del LAYERS["MixHopConv"]


class Initial(nn.Module):
    """GCN2Conv, which also sees the first features."""

    def __init__(self, width: int):
        super().__init__()
        self.layer = gnn.GCN2Conv(width, alpha=0.2)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """As a layer of features and edges."""
        return self.layer(x, x, edge_index)


class Related(nn.Module):
    """RGCNConv with edges of three kinds."""

    def __init__(self, i: int, o: int):
        super().__init__()
        self.layer = gnn.RGCNConv(i, o, num_relations=3)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """As a layer of features and edges."""
        return self.layer(x, edge_index, torch.arange(edge_index.shape[1]) % 3)


class Attributed(nn.Module):
    """A layer whose edges have features."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer
        self.register_buffer("features", torch.rand(EDGES, 4))

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """As a layer of features and edges."""
        return self.layer(x, edge_index, self.features)


class Placed(nn.Module):
    """A layer whose nodes are points."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer
        self.register_buffer("points", torch.randn(NODES, 3))

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """As a layer of features and edges."""
        return self.layer(x, self.points, edge_index)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "GCN": lambda: gnn.GCN(WIDTH, 16, 3, 5),
    "GraphSAGE": lambda: gnn.GraphSAGE(WIDTH, 16, 3, 5),
    "GIN": lambda: gnn.GIN(WIDTH, 16, 3, 5),
    "GAT": lambda: gnn.GAT(WIDTH, 16, 3, 5, heads=4),
    "EdgeCNN": lambda: gnn.EdgeCNN(WIDTH, 16, 3, 5),
    "GCN/jk": lambda: gnn.GCN(WIDTH, 16, 3, 5, jk="lstm", norm="BatchNorm"),
    "GraphSAGE/act_first": lambda: gnn.GraphSAGE(WIDTH, 16, 3, 5, act_first=True, jk="max"),
    "GraphUNet": lambda: gnn.GraphUNet(WIDTH, 16, 5, depth=2),
    "RECT_L": lambda: gnn.RECT_L(WIDTH, 16),
    "LINKX": lambda: gnn.LINKX(NODES, WIDTH, 16, 5, num_layers=2),
}


def layered(name: str, layer: Callable[..., nn.Module]) -> Subject:
    return Subject(Two(layer), torch.randn(NODES, WIDTH), (edges(),))


def model(name: str, make: Callable[[], nn.Module]) -> Subject:
    return Subject(make(), torch.randn(NODES, WIDTH), (edges(),))


def attentive(name: str) -> Subject:
    net = gnn.AttentiveFP(WIDTH, 16, 5, edge_dim=4, num_layers=2, num_timesteps=2)
    rest = (edges(), torch.rand(EDGES, 4), torch.arange(NODES) // 6)
    return Subject(net, torch.randn(NODES, WIDTH), rest)


def pooled(name: str) -> Subject:
    """A graph classifier."""
    net = gnn.GCN(WIDTH, 16, 2)
    last = gnn.MLP([16, 16, 5], norm=None)
    both = nn.ModuleList([net, last])
    at, of = edges(), torch.arange(NODES) // 6
    call = lambda m, x: m[1](gnn.global_max_pool(m[0](x, at), of))
    return Subject(both, torch.randn(NODES, WIDTH), call=call)


def dense(name: str) -> Subject:
    layers = nn.ModuleList([gnn.DenseSAGEConv(WIDTH, 16), gnn.DenseGCNConv(16, 5)])
    near = (torch.rand(2, NODES, NODES) > 0.6).double()
    call = lambda m, x: m[1](m[0](x, near).relu(), near)
    return Subject(layers, torch.randn(2, NODES, WIDTH), call=call)


def cases() -> dict[str, Build]:
    """By class."""
    found = table(MODELS, model) | table(LAYERS, layered) | table(["AttentiveFP"], attentive)
    return found | table(["graph_classifier"], pooled) | table(["DenseSAGEConv"], dense)
