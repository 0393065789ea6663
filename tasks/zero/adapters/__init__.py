"""Other engines behind the interface of ours: DeepSpeed and FSDP2, for comparison."""
