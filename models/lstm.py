"""Next-character network for Shakespeare, in LEAF's convention (dossier 6.2)."""

from torch import Tensor, nn


class CharLstmNetwork(nn.Module):
    """Embedding, stacked LSTM layers, and a linear layer on the last step.

    Args:
        num_symbols: Size of the vocabulary.
        embedding: Embedding width.
        hidden: Hidden units of each layer.
        layers: Stacked layers.
    """

    def __init__(self, num_symbols: int, *, embedding: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(num_symbols, embedding)
        self.lstm = nn.LSTM(embedding, hidden, layers, batch_first=True)
        self.fc = nn.Linear(hidden, num_symbols)

    def forward(self, symbols: Tensor) -> Tensor:
        """Return the logits, shape (B, num_symbols), of contexts of shape (B, T), any integers."""
        states, _ = self.lstm(self.embed(symbols.int()))
        logits: Tensor = self.fc(states[:, -1])
        return logits
