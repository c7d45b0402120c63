"""The embedded model: a small vision-language model of the LLaVA architecture, trained on rendered scenes, that ships with headflow."""
