"""What only the recipes of the shipped models need: data that is drawn, cut out or composed of what people wrote."""
