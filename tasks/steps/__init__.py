"""What flows are made of: thin Prefect tasks, and the files of a study around them."""
