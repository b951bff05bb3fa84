"""What crosses between ranks: messages and gradient sums, in an order that cannot deadlock."""
